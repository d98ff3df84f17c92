"""The learning rate of every step."""

import math

from samuel.config import TrainingConfig


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine annealing to zero at the last step (paper §V)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
