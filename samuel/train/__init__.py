"""Training: POPDB → model (paper §IV-C, §V)."""

from samuel.train.objective import learning_rate_at
from samuel.train.trainer import Training, fit, run_folder

__all__ = ["Training", "fit", "learning_rate_at", "run_folder"]
