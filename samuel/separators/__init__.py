"""A song → its vocals (paper §III-C).

Two separators stand behind `load_separator`: `repet`, which needs no weights, and `demucs`, the paper's.
"""

import torch

from samuel.config import SeparatorConfig
from samuel.separators.base import Separator
from samuel.separators.demucs import load_demucs
from samuel.separators.repet import RepetSeparator

__all__ = ["Separator", "load_separator"]


def load_separator(config: SeparatorConfig, device: torch.device) -> Separator:
    """The separator that the settings name; `repet` computes on the CPU whatever the device.

    Raises:
        MissingPartError: Its weights are absent, damaged or out of reach.
    """
    if config.name == "repet":
        return RepetSeparator()
    return load_demucs(config, device)
