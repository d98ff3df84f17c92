"""A whole lineup, heard: every file once, several tracks at a time, and what was found wrong with them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from samuel.codec import Codec
from samuel.concurrency import side_by_side
from samuel.errors import InputError
from samuel.evaluate.following import Features, beat_f1_to_reference
from samuel.evaluate.listen import Heard, hear
from samuel.evaluate.signal import log_mel_distance_db
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL, VOCALS, Lineup, Problem, Track

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
