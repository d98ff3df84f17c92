"""The registry of scores: what each is called, what it needs, which way is better.

Tables, report, command line and UI read titles, units, digits and direction from here.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher is better", "lower is better", "neither way is better"]
HIGHER: Better = "higher is better"
LOWER: Better = "lower is better"
NEITHER: Better = "neither way is better"

Need = Literal["audio", "vocal", "reference", "latents", "lineup"]


@dataclass(frozen=True)
class Score:
    """A score of accompaniments.

    Attributes:
        name: In `scores.parquet` and `summary.json`.
        title: For people.
        unit: Of its values, or their range.
        better: Which way.
        meaning: One sentence.
        needs: The samples of the accompaniment alone, also its vocal, also the true accompaniment; or all
            tracks at once, as latents or as files.
        digits: After the point of a mean; its interval has one fewer, where it has any.
        scorer: The choice in `evaluation.scorers` that measures it.
    """

    name: str
    title: str
    unit: str
    better: Better | Literal[""]
    meaning: str
    needs: Need
    digits: int = 3
    scorer: str = "signal"

    @property
    def label(self) -> str:
        """Title, unit and direction, for the head of a row."""
        known = ", ".join(filter(None, [self.unit, self.better]))
        return f"{self.title} ({known})" if known else self.title


REGISTRY: dict[str, Score] = {}
"""By name, in the order of the report."""


def register(*scores: Score) -> None:
    """Add scores, which are then measured and shown wherever scores are.

    Raises:
        ValueError: A score of this name is there.
    """
    for score in scores:
        if score.name in REGISTRY:
            raise ValueError(f"a score {score.name!r} is registered already")
        REGISTRY[score.name] = score


def find_score(name: str) -> Score:
    """The score of this name; one that is not registered is called by its name."""
    unknown = "a score that this version of the report does not know"
    return REGISTRY.get(name) or Score(name, name, "", "", unknown, "audio")


def in_order(names: Collection[str]) -> list[str]:
    """Names of scores as a report lists them; those that are not registered come last."""
    return [*(name for name in REGISTRY if name in names), *(name for name in names if name not in REGISTRY)]


register(
    Score(
        "chroma_likeness", "chroma likeness", "-1 to 1", HIGHER,
        "whether the notes that are sung also sound; chance: 0", "vocal",
    ),
    Score(
        "beat_f1", "beat F1", "0 to 1", HIGHER,
        "share of beats within 70 ms of the vocal's; chance: about 0.3", "vocal",
    ),
    Score(
        "onset_correlation", "onset correlation", "-1 to 1", HIGHER,
        "whether notes begin when sung ones do; chance: 0", "vocal",
    ),
    Score(
        "key_agreement", "key agreement", "0 to 1", HIGHER,
        "whether it is in the vocal's key; a related key counts in part", "vocal",
    ),
    Score(
        "beat_f1_to_reference", "beat F1 to the true one", "0 to 1", HIGHER,
        "the same against the beats of the true accompaniment", "reference",
    ),
    Score(
        "log_mel_distance_db", "log-mel distance", "dB", LOWER,
        "mean absolute difference to the true accompaniment", "reference", digits=2,
    ),
    Score("level_dbfs", "level", "dBFS", NEITHER, "root mean square over the whole track", "audio", digits=1),
    Score(
        "clipped_share", "clipped share", "0 to 1", LOWER, "share of samples at full scale", "audio", digits=4
    ),
    Score(
        "PQ", "PQ, production quality", "1 to 10", HIGHER,
        "AudioBox-Aesthetics: how well made it sounds", "lineup", digits=2, scorer="audiobox",
    ),
    Score(
        "PC", "PC, production complexity", "1 to 10", NEITHER,
        "AudioBox-Aesthetics: how much sounds at once", "lineup", digits=2, scorer="audiobox",
    ),
    Score(
        "CE", "CE, content enjoyment", "1 to 10", HIGHER,
        "AudioBox-Aesthetics: how enjoyable it is", "lineup", digits=2, scorer="audiobox",
    ),
    Score(
        "CU", "CU, content usefulness", "1 to 10", HIGHER,
        "AudioBox-Aesthetics: how useful it would be as material; the paper calls it Content Unity",
        "lineup", digits=2, scorer="audiobox",
    ),
    Score(
        "apa", "accompaniment prompt adherence (APA)", "0 to 1", HIGHER,
        "how far mixes of vocal and accompaniment are, as a set, like true mixes (1) rather than like mixes"
        " with strangers (0), by CLAP (Grachten and Nistal, arXiv 2503.06346)", "lineup", scorer="apa",
    ),
    Score(
        "frechet", "Fréchet distance", "squared deviations of the latents", LOWER,
        "how far latents as a whole are from true ones; to be read beside its floor", "latents", digits=1,
    ),
    Score(
        "nearest", "nearest training pair of each track", "-1 to 1", NEITHER,
        "the training accompaniment most like it at any shift in time: 1 is a copy, 0 is unrelated",
        "latents", digits=2,
    ),
    Score(
        "diversity", "diversity over seeds", "0 to 2", NEITHER,
        "how unlike takes of one vocal are: 0 the same, 1 nothing in common", "latents", digits=2,
    ),
    Score(
        "efficiency", "time and memory", "", NEITHER,
        "seconds, memory and parameters for a track, as in the paper's Table II", "lineup",
    ),
)  # fmt: skip

AUDIOBOX = tuple(score.name for score in REGISTRY.values() if score.scorer == "audiobox")
PARTS = {
    "audiobox": f"AudioBox-Aesthetics ({', '.join(AUDIOBOX)})",
    "following": "whether the vocal is followed",
    "other vocals": "other songs' vocals",
    "distribution": "the distribution of the latents",
}


def title_of(part: str) -> str:
    """Title of what `not_measured` of a summary names: a score, or several at once."""
    return PARTS.get(part) or find_score(part).title
