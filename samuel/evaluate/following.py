"""A whole lineup, heard: every file once, several tracks at a time, and what was found wrong with them."""

from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from itertools import chain
from math import nan
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from samuel.codecs.base import Codec
from samuel.concurrency import side_by_side
from samuel.errors import InputError
from samuel.evaluate.features import (
    CHROMA_EVERY,
    STILL,
    Features,
    Floats,
    key_of,
)
from samuel.evaluate.frechet import Floor, Gaussian, gaussian_distance
from samuel.evaluate.signal import log_mel_distance_db
from samuel.evaluate.statistics import (
    least_pairing_p,
    mean_interval,
    others,
    pairing_p,
    usable,
)
from samuel.evaluate.systems import (
    CEILING,
    NOT_SCORED,
    REAL,
    VOCALS,
    Lineup,
    Problem,
    Track,
)
from samuel.evaluate.tracks import Heard, hear

# Does an accompaniment follow a vocal? Harmony, beat, onsets and key of both, compared.
#
# No score needs the true accompaniment or any weights. Each means something only beside the same score
# against
# the vocals of other songs: an accompaniment that ignores its vocal reaches what chance gives, which is 0 for
# the two correlations and about 0.3 for the beat.


FOLLOWING = ("chroma_likeness", "beat_f1", "onset_correlation", "key_agreement")
"""The scores of `follow`, in the order of reports."""

SMOOTHING = 3  # frames, 70 ms: a voice does not start within one frame of a drum


def follow(vocal: Features, accompaniment: Features) -> dict[str, float]:
    """Score an accompaniment against a vocal over their common length, which is that of the shorter.

    An accompaniment that is silent follows nothing and scores 0. NaN where there is nothing to follow: on
    all scores where the vocal is silent, on one where the vocal has no beat, no onset or no pitch.

    Returns:
        chroma_likeness: Mean Pearson correlation of the 12 pitch classes of both, over the frames in which
            somebody sings; -1 to 1. A plain cosine would give noise, which has all classes, more than 0.5.
        beat_f1: F measure within ±70 ms (`mir_eval.beat.f_measure`) of the beats that the tracker finds in
            the accompaniment alone against those that it finds in the vocal alone; 0 to 1. The first 5 s
            count too: mir_eval advises to drop them for listeners, who must find the beat before they tap.
        onset_correlation: Pearson correlation of the onset strengths, averaged over 70 ms, over the frames in
            which somebody sings; -1 to 1. Without a search for the best lag, whose chance level is above 0.
        key_agreement: `mir_eval.key.weighted_score` against the vocal's key: 1 for the same key, 0.5 for its
            fifth, 0.3 for the relative and 0.2 for the parallel key, else 0.
    """
    if accompaniment.silent and not vocal.silent:
        return dict.fromkeys(FOLLOWING, 0.0)
    vocal, accompaniment = _common(vocal, accompaniment)
    if vocal.silent:
        return dict.fromkeys(FOLLOWING, nan)
    if accompaniment.silent:
        return dict.fromkeys(FOLLOWING, 0.0)
    scores = (_chroma_likeness, _beat_f1, _onset_correlation, _key_agreement)
    return {name: score(vocal, accompaniment) for name, score in zip(FOLLOWING, scores, strict=True)}


def beat_f1_to_reference(reference: Features, accompaniment: Features) -> float:
    """F measure within ±70 ms of the accompaniment's beats against those of the true accompaniment.

    Returns:
        0 to 1 over the common length; NaN where the reference has no beat, 0 where only the accompaniment
        has none.
    """
    return _beat_f1(*_common(reference, accompaniment))


def _chroma_likeness(vocal: Features, accompaniment: Features) -> float:
    first, second = (_centred(side.chroma) for side in (vocal, accompaniment))
    sung = vocal.sung[::CHROMA_EVERY]
    # The shorter audio may end within the first step of a phrase.
    return float(np.sum(first * second, axis=0)[sung].mean()) if sung.any() else nan


def _centred(chroma: Floats) -> Floats:
    """Each frame less its mean and of length 1, a frame without any pitch 0."""
    centred = chroma - chroma.mean(axis=0)
    return centred / np.maximum(np.linalg.norm(centred, axis=0), STILL)


def _beat_f1(reference: Features, accompaniment: Features) -> float:
    from mir_eval.beat import f_measure

    if not reference.beats_s.size:
        return nan
    if not accompaniment.beats_s.size:  # mir_eval agrees, but warns
        return 0.0
    return float(f_measure(reference.beats_s, accompaniment.beats_s))


def _onset_correlation(vocal: Features, accompaniment: Features) -> float:
    from scipy.ndimage import uniform_filter1d

    first, second = (
        uniform_filter1d(side.onsets.astype(np.float64), SMOOTHING)[vocal.sung]
        for side in (vocal, accompaniment)
    )
    if first.std() < STILL:
        return nan
    return float(np.corrcoef(first, second)[0, 1]) if second.std() >= STILL else 0.0


def _key_agreement(vocal: Features, accompaniment: Features) -> float:
    from mir_eval.key import weighted_score

    if vocal.key is None:
        return nan
    return float(weighted_score(vocal.key, accompaniment.key)) if accompaniment.key else 0.0


def _common(first: Features, second: Features) -> tuple[Features, Features]:
    frames = min(first.level_db.size, second.level_db.size)
    until_s = min(first.duration_s, second.duration_s)
    return cut(first, frames, until_s), cut(second, frames, until_s)


def cut(whole: Features, frames: int, until_s: float) -> Features:
    """The beginning of it: so many frames of level, which last so many seconds."""
    if whole.level_db.size == frames and whole.duration_s == until_s:
        return whole
    chroma = whole.chroma[:, : -(-frames // CHROMA_EVERY)]
    return replace(
        whole,
        chroma=chroma,
        level_db=whole.level_db[:frames],
        onsets=whole.onsets[:frames],
        beats_s=whole.beats_s[whole.beats_s < until_s],
        key=key_of(chroma),
        duration_s=until_s,
    )


# Every accompaniment against its own vocal and against those of other songs.
#
# Shapes: N tracks of a block; a matrix holds accompaniment × vocal.


BLOCK = 32
"""Tracks that are compared with each other: the work grows with the tracks, not with their square."""
LIKE_LENGTH = 0.8
"""Of the median: what is shorter is not compared with other songs' vocals."""


@dataclass(frozen=True)
class Pairing:
    """One score of one system.

    Attributes:
        own: Score of each track with its own vocal, over all that both have.
        tracks: Names of those that are compared with each other's vocals, block by block.
        blocks: A matrix (N, N) for each block, own pairs on the diagonal, all over one length; NaN where
            nothing can be followed.
    """

    own: dict[str, float]
    tracks: list[list[str]]
    blocks: list[NDArray[np.float64]]

    def others(self) -> dict[str, float]:
        """Mean score of each track with the vocals of the others; NaN where there are none."""
        columns = [others(block) for block in self.blocks]
        return dict(zip(chain(*self.tracks), map(float, chain(*columns)), strict=True))

    def summary(self) -> dict[str, Any]:
        """Means over the tracks that have all scores, their difference, and how often chance does as well."""
        kept = [block[np.ix_(places, places)] for block in self.blocks if len(places := usable(block)) > 1]
        own, other = (np.array([value for block in kept for value in of(block)]) for of in (np.diag, others))
        return {
            "n": len(own),
            "own": float(own.mean()) if kept else None,
            "other": float(other.mean()) if kept else None,
            "difference": vars(mean_interval(own - other)),
            "p": pairing_p(kept),
            "p_least": least_pairing_p([len(block) for block in kept]) if kept else None,
        }


def pairings(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> dict[str, Pairing]:
    """Every score that follows the vocal, of one system.

    Tracks are compared with each other's vocals over the length of the shortest of them: over lengths of
    their own, a pair that belongs together would be told by its length. So those that are much shorter than
    the others are left out.

    Args:
        vocals: By track.
        accompaniments: By track; those without a vocal are left out.
    """
    own = {name: follow(vocals[name], made) for name, made in accompaniments.items() if name in vocals}
    if not own:
        return {}
    blocks = _like_blocks(vocals, accompaniments)
    matrices = [_matrices(names, vocals, accompaniments) for names in blocks]
    return {
        score: Pairing(
            {name: scores[score] for name, scores in own.items()},
            blocks,
            [found[score] for found in matrices],
        )
        for score in FOLLOWING
    }


def left_out(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> list[str]:
    """Tracks that are too short to be compared with the others' vocals."""
    compared = set(chain(*_like_blocks(vocals, accompaniments)))
    return [name for name in vocals if name in accompaniments and name not in compared]


def _like_blocks(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> list[list[str]]:
    """Blocks of the tracks that a system has, without those that are much shorter than the median."""
    named = [[name for name in block if name in accompaniments] for block in blocks_of(list(vocals))]
    return [_alike(names, vocals, accompaniments) for names in named if names]


def _alike(
    names: Sequence[str], vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]
) -> list[str]:
    both_s = {name: min(vocals[name].duration_s, accompaniments[name].duration_s) for name in names}
    least_s = LIKE_LENGTH * median(both_s.values())
    return [name for name in names if both_s[name] >= least_s]


def blocks_of(names: Sequence[str]) -> list[list[str]]:
    """Names in blocks of about one size, none larger than `BLOCK`."""
    if not names:
        return []
    parts = np.array_split(np.arange(len(names)), -(-len(names) // BLOCK))
    return [[names[int(place)] for place in part] for part in parts]


def _matrices(
    names: Sequence[str], vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]
) -> dict[str, NDArray[np.float64]]:
    sides = [[side[name] for name in names] for side in (vocals, accompaniments)]
    until_s = min(found.duration_s for side in sides for found in side)
    frames = min(found.level_db.size for side in sides for found in side)
    sung, made = ([cut(found, frames, until_s) for found in side] for side in sides)
    matrices = {score: np.full((len(names), len(names)), np.nan) for score in FOLLOWING}
    for row, accompaniment in enumerate(made):
        for column, vocal in enumerate(sung):
            for score, value in follow(vocal, accompaniment).items():
                matrices[score][row, column] = value
    return matrices


# Fréchet distances where systems made accompaniments for the very songs that they are held to.
#
# A system is then near to the true ones by the songs alone. So its items of one half of the songs are held to
# the true items of the other half, as are the true ones: that is the floor, and both are equally large sets.


BySong = Mapping[str, Gaussian]


def crossed_distances(
    true: BySong, systems: Mapping[str, BySong], splits: int, seed: int
) -> tuple[dict[str, float], dict[str, Floor]]:
    """Mean distance of each system, and its floor, over random halvings of the songs that it has.

    Args:
        true: The true items of each song.
        systems: The items of each system by song.
        splits: How many halvings.
        seed: Which.

    Raises:
        InputError: There are not two songs.
    """
    if len(true) < 2:
        raise InputError("there are true accompaniments of one song alone: two are needed, one for each side")
    distances: dict[str, float] = {}
    floors: dict[str, Floor] = {}
    for name, items in systems.items():
        songs = sorted(true.keys() & items.keys())
        if len(songs) < 2:
            continue
        halves = list(_halves(songs, splits, seed))
        between = [_distance(items, one, true, other) for one, other in halves]
        chance = [_distance(true, one, true, other) for one, other in halves]
        least = min(sum(items[song].items for song in one) for one, _ in halves)
        distances[name] = mean(between)
        floors[name] = Floor(mean(chance), min(chance), max(chance), splits, least)
    return distances, floors


def _halves(songs: Sequence[str], splits: int, seed: int) -> Iterator[tuple[list[str], list[str]]]:
    generator = np.random.default_rng(seed)
    for _ in range(splits):
        order = [songs[int(place)] for place in generator.permutation(len(songs))]
        yield order[: len(songs) // 2], order[len(songs) // 2 :]


def _distance(made: BySong, one: Sequence[str], true: BySong, other: Sequence[str]) -> float:
    return gaussian_distance(
        Gaussian.sum(made[song] for song in one), Gaussian.sum(true[song] for song in other)
    )


WORKERS = 2  # most of it is NumPy's and librosa's, which leave the interpreter to others
SLACK_S = 0.1


@dataclass
class Hearing:
    """What was heard.

    Attributes:
        vocals: By track; those that could be read.
        features: By system and track.
        scores: Of the sound, and against the true accompaniment: by system, track and score.
        latents: By system and track, (C, T) float16; only where a codec was given.
        problems: What was found wrong.
    """

    vocals: dict[str, Features] = field(default_factory=dict)
    features: dict[str, dict[str, Features]] = field(default_factory=dict)
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    latents: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def hear_lineup(lineup: Lineup, codec: Codec | None, each: Callable[[Iterable], Iterable]) -> Hearing:
    """Hear every file.

    A file that cannot be read becomes a problem; without its vocal a track is left out.

    Args:
        lineup: What is compared.
        codec: Encodes the accompaniments too, where one is given.
        each: Wraps the loop over tracks, e.g. in a progress bar.
    """
    hearing = Hearing(problems=list(lineup.problems))
    for system in lineup.systems:
        hearing.features[system.name], hearing.scores[system.name] = {}, {}
    tracks = list(lineup.tracks)
    done = dict(each(side_by_side(lambda track: _heard(track, lineup, codec), tracks, WORKERS)))
    mono: dict[str, int] = {}
    for place, track in enumerate(tracks):
        found, problems = done[place]
        hearing.problems += problems
        if VOCALS in found:
            _add(hearing, track, found, mono)
    hearing.problems += _mono_told(mono, hearing)
    return hearing


def _heard(track: Track, lineup: Lineup, codec: Codec | None) -> tuple[dict[str, Heard], list[Problem]]:
    """The vocal and every system's accompaniment of a track."""
    files = {s.name: s.files[track.name] for s in lineup.systems if track.name in s.files}
    found: dict[str, Heard] = {}
    problems: list[Problem] = []
    for name, path in {VOCALS: track.vocal, **files}.items():
        try:
            found[name] = hear(path, None if name == VOCALS else codec)
        except InputError as error:
            problems.append(Problem(name, track.name, f"{error}: {NOT_SCORED}"))
            if name == VOCALS:
                break
    problems += [
        Problem(name, track.name, remark)
        for name, heard in found.items()
        for remark in _remarks(heard, found)
    ]
    return found, problems


def _remarks(heard: Heard, found: Mapping[str, Heard]) -> Iterator[str]:
    yield from heard.remarks
    vocal_s = found[VOCALS].duration_s
    if abs(heard.duration_s - vocal_s) > SLACK_S:
        shorter = min(heard.duration_s, vocal_s)
        yield f"{heard.duration_s:.1f} s, its vocal {vocal_s:.1f} s: compared over the first {shorter:.1f} s"


def _add(hearing: Hearing, track: Track, found: dict[str, Heard], mono: dict[str, int]) -> None:
    hearing.vocals[track.name] = found.pop(VOCALS).features
    reference = next((name for name in (REAL, CEILING) if name in found), None)
    for name, heard in found.items():
        hearing.features[name][track.name] = heard.features
        hearing.scores[name][track.name] = dict(heard.sound)
        if reference not in (None, name):
            hearing.scores[name][track.name] |= _against(found[reference], heard)
        if heard.latents is not None:
            hearing.latents.setdefault(name, {})[track.name] = heard.latents
        if heard.mono:
            mono[name] = mono.get(name, 0) + 1


def _against(reference: Heard, heard: Heard) -> dict[str, float]:
    return {
        "log_mel_distance_db": log_mel_distance_db(heard.log_mel, reference.log_mel),
        "beat_f1_to_reference": beat_f1_to_reference(reference.features, heard.features),
    }


def _mono_told(mono: dict[str, int], hearing: Hearing) -> list[Problem]:
    return [
        Problem(
            name, "", f"mono: both channels are the same in {count} of {len(hearing.features[name])} tracks"
        )
        for name, count in mono.items()
    ]
