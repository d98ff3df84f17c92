"""A song → its vocals (paper §III-C), by `repet`, which needs no weights, or `demucs`, the paper's.

Another separator is a module of this folder, named like it, with a `load` like theirs, and its name in
`samuel.config.SeparatorName`.
"""

import threading
from importlib import import_module
from typing import Protocol

import torch

from samuel.audio import Audio
from samuel.config import SeparatorConfig


class Separator(Protocol):
    """Takes the vocals out of a song; several threads may ask at a time."""

    identity: str  # changes whenever the stems of the same song would

    def vocals(self, mix: Audio) -> Audio:
        """(2, S) at 44.1 kHz → its vocals, (2, S) float32."""
        ...

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""


def load_separator(
    config: SeparatorConfig, device: torch.device, turn: "threading.Lock | None" = None
) -> Separator:
    """The separator that the settings name; `turn` is held while it computes, by who shares its memory."""
    return import_module(f"samuel.separators.{config.name.replace('-', '_')}").load(config, device, turn)
