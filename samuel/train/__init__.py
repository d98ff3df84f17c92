"""Training: POPDB → model (paper §IV-C, §V)."""

from samuel.train.fit import fit, run_folder
from samuel.train.learning_rate import learning_rate_at
from samuel.train.training import Training

__all__ = ["Training", "fit", "learning_rate_at", "run_folder"]
