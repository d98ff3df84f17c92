"""What the scores are called in a report, what they mean, and which way is better."""

from collections.abc import Collection
from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher is better", "lower is better", "neither way is better"


@dataclass(frozen=True)
class ScoreName:
    """A score for people.

    Attributes:
        name: Readable.
        unit: Of its values, or their range.
        better: Which way.
        meaning: One sentence.
        digits: After the point of a mean; its interval has one fewer, where it has any.
    """

    name: str
    unit: str
    better: str
    meaning: str
    digits: int = 3

    @property
    def label(self) -> str:
        """Name, unit and direction, for the head of a row."""
        known = ", ".join(filter(None, [self.unit, self.better]))
        return f"{self.name} ({known})" if known else self.name


AUDIOBOX = {
    "PQ": ScoreName(
        "PQ, production quality", "1 to 10", HIGHER, "AudioBox-Aesthetics: how well made it sounds", 2
    ),
    "PC": ScoreName(
        "PC, production complexity", "1 to 10", NEITHER, "AudioBox-Aesthetics: how much sounds at once", 2
    ),
    "CE": ScoreName(
        "CE, content enjoyment", "1 to 10", HIGHER, "AudioBox-Aesthetics: how enjoyable it is", 2
    ),
    "CU": ScoreName(
        "CU, content usefulness", "1 to 10", HIGHER,
        "AudioBox-Aesthetics: how useful it would be as material; the paper calls it Content Unity", 2,
    ),
}  # fmt: skip
AXES = ", ".join(AUDIOBOX)
AUDIOBOX_NAME = f"AudioBox-Aesthetics ({AXES})"

NAMES = {
    "chroma_likeness": ScoreName(
        "chroma likeness", "-1 to 1", HIGHER, "whether the notes that are sung also sound; chance: 0"
    ),
    "beat_f1": ScoreName(
        "beat F1", "0 to 1", HIGHER, "share of beats within 70 ms of the vocal's; chance: about 0.3"
    ),
    "onset_correlation": ScoreName(
        "onset correlation", "-1 to 1", HIGHER, "whether notes begin when sung ones do; chance: 0"
    ),
    "key_agreement": ScoreName(
        "key agreement", "0 to 1", HIGHER, "whether it is in the vocal's key; a related key counts in part"
    ),
    "beat_f1_to_reference": ScoreName(
        "beat F1 to the true one", "0 to 1", HIGHER, "the same against the beats of the true accompaniment"
    ),
    "log_mel_distance_db": ScoreName(
        "log-mel distance", "dB", LOWER, "mean absolute difference to the true accompaniment", 2
    ),
    "level_dbfs": ScoreName("level", "dBFS", NEITHER, "root mean square over the whole track", 1),
    "clipped_share": ScoreName("clipped share", "0 to 1", LOWER, "share of samples at full scale", 4),
    **AUDIOBOX,
}  # fmt: skip
"""In the order of the report."""


def score_name(score: str) -> ScoreName:
    """What a score is called; an unknown one by its own name."""
    return NAMES.get(score) or ScoreName(score, "", "", "")


def in_order(scores: Collection[str]) -> list[str]:
    """Scores as the report lists them; those that it does not know come last."""
    return [*(name for name in NAMES if name in scores), *(name for name in scores if name not in NAMES)]
