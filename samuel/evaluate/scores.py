"""The registry of scores: one object says what a score is called, what it needs, and how it is measured.

Tables, report, command line and UI follow from it. To add a score, write its measure below and register it:
no other file knows its name. What it needs says how `measure` is called:

| needs | given | returns |
|---|---|---|
| `audio` | samples (2, S) of an accompaniment at 44.1 kHz | a number |
| `vocal` | `Features` of a vocal and of an accompaniment, equally long, none of them silent | a number |
| `reference` | `Sound` of the true accompaniment and of another one | a number |
| `latents` | a `Space`, and codec latents (C, T) by system and track | `Findings`, for `distribution` |
| `lineup` | an `Evaluation` | `Findings` of this score and of those with the same measure |

A number is NaN where there is nothing to measure; what cannot be measured raises an error of `NOT_MEASURED`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samuel.audio import dbfs
from samuel.config import EvaluationConfig
from samuel.errors import CheckpointError, DatasetError, InputError, MissingPartError
from samuel.evaluate.features import CHROMA_EVERY, STILL, Features, Floats, Sound, clipped_share, common_part
from samuel.evaluate.systems import Lineup

HIGHER, LOWER, NEITHER = "higher is better", "lower is better", "neither way is better"
Need = Literal["audio", "vocal", "reference", "latents", "lineup"]
Each = Callable[[Iterable[Any]], Iterable[Any]]  # wraps a long loop, e.g. in a progress bar
NOT_MEASURED = (InputError, MissingPartError, DatasetError, CheckpointError)
SMOOTHING = 3  # frames, 70 ms: a voice does not start within one frame of a drum


@dataclass(frozen=True)
class Score:
    """A score of accompaniments."""

    name: str  # in `scores.parquet` and `summary.json`
    title: str
    unit: str  # of its values, or their range
    better: str  # of the three above
    needs: Need
    measure: Any  # a function, or "module:function", imported when it is called: it loads much
    meaning: str  # one sentence
    digits: int = 3  # of a mean; its interval has one fewer, where it has any
    scorer: str = ""  # the choice in `evaluation.scorers` that measures it; none: always

    @property
    def label(self) -> str:
        """Title, unit and direction, for the head of a row."""
        known = ", ".join(filter(None, [self.unit, self.better]))
        return f"{self.title} ({known})" if known else self.title

    @property
    def part(self) -> str:
        """Name under which `not_measured` of a summary has it: of a chosen scorer all scores at once."""
        return self.scorer or self.name


@dataclass(frozen=True)
class Evaluation:
    """Everything that a score of a whole lineup may be measured from."""

    lineup: Lineup
    identity: Any  # names and digests of the lineup's files, as JSON
    config: EvaluationConfig
    root: Path  # where a scorer may keep what it measured
    costs: Mapping[str, Any] = field(default_factory=dict)  # time and memory by system, measured
    each: Each = iter


@dataclass(frozen=True)
class Findings:
    """Values of scores of a whole lineup."""

    # By score, system and track; by score and system; and weights that measured it, named as in the summary.
    by_track: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)
    by_system: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


REGISTRY: dict[str, Score] = {}  # by name, in the order of the report


def register(*scores: Score) -> None:
    """Add scores, which are then measured and shown wherever scores are; ValueError where a name is taken."""
    for score in scores:
        if REGISTRY.setdefault(score.name, score) is not score:
            raise ValueError(f"a score {score.name!r} is registered already")


def scores_that_need(need: str) -> list[Score]:
    """Registered scores of one kind, in the order of the report."""
    return [score for score in REGISTRY.values() if score.needs == need]


def find_score(name: str) -> Score:
    """The score of this name; one that is not registered, as of a later version, is called by its name."""
    unknown = "a score that this version does not know"
    return REGISTRY.get(name) or Score(name, name, "", "", "audio", "", unknown)


def in_order(names: Collection[str]) -> list[str]:
    """Names of scores as a report lists them; those that are not registered come last."""
    return [*(name for name in REGISTRY if name in names), *(name for name in names if name not in REGISTRY)]


def follow(vocal: Features, accompaniment: Features) -> dict[str, float]:
    """Every score that needs a vocal, over the length of the shorter.

    A silent accompaniment scores 0. NaN where a vocal has nothing to follow: no sound, beat, onset or pitch.
    """
    scores = scores_that_need("vocal")
    if accompaniment.silent and not vocal.silent:
        return {score.name: 0.0 for score in scores}
    vocal, accompaniment = common_part(vocal, accompaniment)
    if vocal.silent or accompaniment.silent:
        return {score.name: nan if vocal.silent else 0.0 for score in scores}
    return {score.name: score.measure(vocal, accompaniment) for score in scores}


def chroma_likeness(vocal: Features, accompaniment: Features) -> float:
    """Mean Pearson correlation of the 12 pitch classes over the frames in which somebody sings; -1 to 1."""
    # A plain cosine would give noise, which has all classes, more than 0.5.

    def centred(chroma: Floats) -> Floats:  # each frame less its mean and of length 1, one without pitch 0
        values = chroma - chroma.mean(axis=0)
        return values / np.maximum(np.linalg.norm(values, axis=0), STILL)

    sung = vocal.sung[::CHROMA_EVERY]
    likeness = np.sum(centred(vocal.chroma) * centred(accompaniment.chroma), axis=0)
    # The shorter audio may end within the first step of a phrase.
    return float(likeness[sung].mean()) if sung.any() else nan


def beat_f1(reference: Features, accompaniment: Features) -> float:
    """F measure within ±70 ms (`mir_eval.beat.f_measure`) of beats tracked in each audio alone; 0 to 1."""
    from mir_eval.beat import f_measure

    if not reference.beats_s.size:
        return nan
    if not accompaniment.beats_s.size:  # mir_eval agrees, but warns
        return 0.0
    return float(f_measure(reference.beats_s, accompaniment.beats_s))


def onset_correlation(vocal: Features, accompaniment: Features) -> float:
    """Pearson correlation, at no lag, of onset strengths over 70 ms, where somebody sings; -1 to 1."""
    from scipy.ndimage import uniform_filter1d

    first, second = (
        uniform_filter1d(side.onsets.astype(np.float64), SMOOTHING)[vocal.sung]
        for side in (vocal, accompaniment)
    )
    if first.std() < STILL:
        return nan
    return float(np.corrcoef(first, second)[0, 1]) if second.std() >= STILL else 0.0


def key_agreement(vocal: Features, accompaniment: Features) -> float:
    """`mir_eval.key.weighted_score`: 1 for the vocal's key, 0.5 its fifth, 0.3 relative, 0.2 parallel key."""
    from mir_eval.key import weighted_score

    if vocal.key is None:
        return nan
    return float(weighted_score(vocal.key, accompaniment.key)) if accompaniment.key else 0.0


def log_mel_distance_db(reference: Sound, accompaniment: Sound) -> float:
    """Mean absolute difference of both log-mel spectrograms over the frames that both have, in dB."""
    frames = min(reference.log_mel.shape[1], accompaniment.log_mel.shape[1])
    return float(np.abs(accompaniment.log_mel[:, :frames] - reference.log_mel[:, :frames]).mean())


OF_AUDIOBOX = {
    "PQ": (HIGHER, "PQ, production quality", "how well made it sounds"),
    "PC": (NEITHER, "PC, production complexity", "how much sounds at once"),
    "CE": (HIGHER, "CE, content enjoyment", "how enjoyable it is"),
    "CU": (HIGHER, "CU, content usefulness", "how useful as material; the paper calls it Content Unity"),
}
AUDIOBOX = tuple(OF_AUDIOBOX)  # as in Table I
# fmt: off
register(
    Score("chroma_likeness", "chroma likeness", "-1 to 1", HIGHER, "vocal", chroma_likeness,
          "whether the notes that are sung also sound; chance: 0"),
    Score("beat_f1", "beat F1", "0 to 1", HIGHER, "vocal", beat_f1,
          "share of beats within 70 ms of the vocal's; chance: about 0.3"),
    Score("onset_correlation", "onset correlation", "-1 to 1", HIGHER, "vocal", onset_correlation,
          "whether notes begin when sung ones do; chance: 0"),
    Score("key_agreement", "key agreement", "0 to 1", HIGHER, "vocal", key_agreement,
          "whether it is in the vocal's key; a related key counts in part"),
    Score("log_mel_distance_db", "log-mel distance", "dB", LOWER, "reference", log_mel_distance_db,
          "mean absolute difference to the true accompaniment", digits=2),
    Score("level_dbfs", "level", "dBFS", NEITHER, "audio", dbfs,
          "root mean square over the whole track", digits=1),
    Score("clipped_share", "clipped share", "0 to 1", LOWER, "audio", clipped_share,
          "share of samples at full scale", digits=4),
    *(Score(axis, title, "1 to 10", better, "lineup", "samuel.evaluate.pretrained:measure_audiobox",
            f"AudioBox-Aesthetics: {meaning}", 2, "audiobox")
      for axis, (better, title, meaning) in OF_AUDIOBOX.items()),
    Score("apa", "accompaniment prompt adherence (APA)", "0 to 1", HIGHER, "lineup",
          "samuel.evaluate.pretrained:measure_apa",
          "how far mixes of vocal and accompaniment are, as a set, like true mixes (1) rather than like mixes"
          " with strangers (0), by CLAP (Grachten and Nistal, arXiv 2503.06346)", 3, "apa"),
    Score("frechet", "Fréchet distance", "squared deviations of the latents", LOWER,
          "latents", lambda space, latents: Findings({}, space.frechet(latents)),
          "how far latents as a whole are from true ones; to be read beside its floor", digits=1),
    Score("nearest", "nearest training pair of each track", "-1 to 1", NEITHER,
          "latents", lambda space, latents: Findings({}, space.nearest(latents)),
          "likeness of the training accompaniment most like it: 1 a copy, 0 unrelated", digits=2),
    Score("diversity", "diversity over seeds", "0 to 2", NEITHER,
          "latents", lambda space, _: Findings({}, space.diversity()),
          "how unlike takes of one vocal are: 0 the same, 1 nothing in common", digits=2),
    Score("efficiency", "time and memory", "", NEITHER, "lineup", "samuel.evaluate.cost:measure_efficiency",
          "seconds, memory and parameters for a track, as in the paper's Table II"),
)
# fmt: on
PARTS = {"audiobox": f"AudioBox-Aesthetics ({', '.join(AUDIOBOX)})", "other vocals": "other songs' vocals"}


def title_of(part: str) -> str:
    """Title of what `not_measured` of a summary names: a score, or several at once."""
    return PARTS.get(part) or find_score(part).title
