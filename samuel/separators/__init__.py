"""A song → its vocals (paper §III-C), by one of several separators.

Behind `load_separator` stand `repet`, which needs no weights, and `demucs`, the paper's. Another separator
is a module of this folder with a `load` like theirs, and its name in `samuel.config.SeparatorName`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, get_args

import torch

from samuel.audio import Audio
from samuel.config import SeparatorConfig, SeparatorName

__all__ = ["SEPARATORS", "Separator", "load_separator"]


class Separator(Protocol):
    """Takes the vocals out of a song; several threads may ask at a time."""

    @property
    def identity(self) -> str:
        """Short text that changes whenever the stems of the same song would."""
        ...

    def vocals(self, mix: Audio) -> Audio:
        """(2, S) at 44.1 kHz → its vocals, (2, S) float32."""
        ...

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""
        ...


Loader = Callable[[SeparatorConfig, torch.device], Separator]


def _loader(name: str) -> Loader:
    def load(config: SeparatorConfig, device: torch.device) -> Separator:
        return import_module(f"samuel.separators.{name.replace('-', '_')}").load(config, device)

    return load


SEPARATORS: dict[str, Loader] = {name: _loader(name) for name in get_args(SeparatorName)}


def load_separator(config: SeparatorConfig, device: torch.device) -> Separator:
    """The separator that the settings name; `repet` computes on the CPU whatever the device.

    Raises:
        MissingPartError: Its weights are absent, damaged or out of reach.
    """
    return SEPARATORS[config.name](config, device)
