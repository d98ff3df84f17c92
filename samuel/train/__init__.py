"""Training: POPDB → model (paper §IV-C, §V)."""

from samuel.train.processes import train_together
from samuel.train.trainer import Training, fit, run_folder

__all__ = ["Training", "fit", "run_folder", "train_together"]
