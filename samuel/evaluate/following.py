"""Does an accompaniment follow a vocal? Harmony, beat, onsets and key of both, compared.

No score needs the true accompaniment or any weights. Each means something only beside the same score against
the vocals of other songs: an accompaniment that ignores its vocal reaches what chance gives, which is 0 for
the two correlations and about 0.3 for the beat.
"""

from dataclasses import replace
from math import nan

import numpy as np

from samuel.evaluate.features import CHROMA_EVERY, STILL, Features, Floats, features, key_of

__all__ = ["FOLLOWING", "Features", "beat_f1_to_reference", "cut", "features", "follow"]

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
