"""What the paper reports in its Tables I and II (§VI): copied from it, never measured here."""

from dataclasses import dataclass

TRACK_S = 47.55
"""Duration of the tracks that it scores and times."""


@dataclass(frozen=True)
class PaperScores:
    """A row of Table I: means over ten generated tracks by AudioBox-Aesthetics, each axis from 1 to 10.

    Attributes:
        system: What made the tracks.
        pq: Production quality.
        pc: Production complexity.
        ce: Content enjoyment.
        cu: Content usefulness, which is what the package calls it; the paper writes Content Unity.
    """

    system: str
    pq: float
    pc: float
    ce: float
    cu: float

    def by_axis(self) -> dict[str, float]:
        """The four figures by the package's names."""
        return {"PQ": self.pq, "PC": self.pc, "CE": self.ce, "CU": self.cu}


@dataclass(frozen=True)
class PaperEfficiency:
    """A row of Table II.

    Attributes:
        system: What makes the tracks.
        parameters: How many it has.
        seconds_per_track: For one track of 47.55 s, on the authors' machine.
        conditioning: What it hears or reads.
        at_least: Whether the time is a lower bound ("> 6 h").
    """

    system: str
    parameters: int
    seconds_per_track: float
    conditioning: str
    at_least: bool = False

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of audio: follows from the paper's figures, and is not one of them."""
        return self.seconds_per_track / TRACK_S


TABLE_I = (
    PaperScores("real tracks (pop benchmark)", 7.92, 6.26, 7.36, 7.61),
    PaperScores("MusicGen Large", 7.99, 5.62, 7.99, 8.14),
    PaperScores("Stable Audio Open", 7.54, 4.06, 6.84, 7.71),
    PaperScores("Jukebox", 5.30, 5.97, 4.83, 4.66),
    PaperScores("SAMUeL", 5.73, 5.14, 2.93, 4.97),
)
TABLE_II = (
    PaperEfficiency("Jukebox", 5_000_000_000, 6 * 3600.0, "lyrics, genre", at_least=True),
    PaperEfficiency("Stable Audio Open", 1_200_000_000, 25.0, "text"),
    PaperEfficiency("MusicGen Large", 3_300_000_000, 1083.0, "vocal, text"),
    PaperEfficiency("MusicGen Small", 300_000_000, 236.0, "vocal, text"),
    PaperEfficiency("SAMUeL", 15_000_000, 21.0, "vocal"),
)
