"""What every separator is."""

from typing import Protocol

from samuel.audio import Audio


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
