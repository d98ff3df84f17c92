"""Separators against truth: synthetic songs, whose stems and sung stretches are known.

Shapes: (2, S) audio at 44.1 kHz.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from samuel.audio import Audio, si_sdr_db
from samuel.codecs.mel import MelCodec
from samuel.config import PopdbConfig, SeparatorConfig
from samuel.errors import MissingPartError
from samuel.popdb.vocal_activity import vocal_activity, vocal_share
from samuel.separators import Separator, load_separator
from samuel.synthetic.song import SyntheticSong, compose

CHUNK_S = MelCodec.info.duration_s(PopdbConfig().chunk_frames)
TRUE_STEMS = "true stems"
EXACT_DB = 100.0
"""Rounding to float32 costs some 150 dB."""


@dataclass(frozen=True)
class Separation:
    """How one song was separated.

    Attributes:
        vocals_db: SI-SDR of the vocals.
        vocals_gain_db: The same less that of the mix, taken for the vocals as it is.
        accompaniment_db: SI-SDR of the accompaniment.
        accompaniment_gain_db: The same less that of the mix.
        shares: Vocal share of each whole chunk, measured on the separated vocals.
        true_shares: The same by the score.
    """

    vocals_db: float
    vocals_gain_db: float
    accompaniment_db: float
    accompaniment_gain_db: float
    shares: tuple[float, ...]
    true_shares: tuple[float, ...]


@dataclass(frozen=True)
class SeparationRow:
    """What a separator is worth, over all songs.

    Attributes:
        separator: Its name; `true stems` for the stems from which the songs were mixed.
        songs: One measurement a song; none where it could not be measured.
        reason: Why it could not.
    """

    separator: str
    songs: tuple[Separation, ...]
    reason: str = ""

    @property
    def share_error(self) -> float:
        """Mean absolute error of the vocal share, over all chunks."""
        pairs = [pair for song in self.songs for pair in zip(song.shares, song.true_shares, strict=True)]
        return fmean(abs(measured - true) for measured, true in pairs)

    def row(self) -> dict[str, str]:
        """As the row of a table; dB are means over the songs, with the gain over the mix in brackets."""
        columns = ("vocals, dB", "accompaniment, dB", "vocal share", "true share", "share error")
        if not self.songs:
            return {"separator": self.separator, **dict.fromkeys(columns, "–"), "note": self.reason}
        cells = (
            _decibels([(song.vocals_db, song.vocals_gain_db) for song in self.songs]),
            _decibels([(song.accompaniment_db, song.accompaniment_gain_db) for song in self.songs]),
            f"{fmean(share for song in self.songs for share in song.shares):.3f}",
            f"{fmean(share for song in self.songs for share in song.true_shares):.3f}",
            f"{self.share_error:.3f}",
        )
        return {"separator": self.separator, **dict(zip(columns, cells, strict=True)), "note": ""}


def separation_rows(
    songs: int,
    separators: Sequence[SeparatorConfig],
    device: torch.device,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[SeparationRow]:
    """Separate synthetic songs and compare with their true stems.

    Args:
        songs: How many, from the first of seed 0 on.
        separators: Which; one whose weights cannot be had gives a row that says why.
        device: Where they compute.
        progress: Wraps the numbers of the songs; for a progress bar.

    Returns:
        First the row of the true stems, whose share error is that of `vocal_activity` alone, then one for
        each separator.
    """
    parts = {_name(config): _load(config, device) for config in separators}
    loaded = {name: part for name, part in parts.items() if not isinstance(part, str)}
    measured: dict[str, list[Separation]] = {name: [] for name in (TRUE_STEMS, *parts)}
    for index in progress(range(songs)):
        song = compose(seed=0, index=index)
        for name, vocals in _estimates(song, loaded):
            measured[name].append(compare(song, vocals))
    reasons = {name: f"not measured: {part}" for name, part in parts.items() if isinstance(part, str)}
    return [SeparationRow(name, tuple(found), reasons.get(name, "")) for name, found in measured.items()]


def compare(song: SyntheticSong, vocals: Audio) -> Separation:
    """Compare what a separator took for the vocals, and the rest of the mix, with the true stems."""
    mix = song.mix
    vocals_db = si_sdr_db(vocals, song.vocals)
    accompaniment_db = si_sdr_db(mix - vocals, song.accompaniment)
    starts_s = [chunk * CHUNK_S for chunk in range(int(song.duration_s / CHUNK_S))]
    active = vocal_activity(vocals, mix)
    return Separation(
        vocals_db=vocals_db,
        vocals_gain_db=vocals_db - si_sdr_db(mix, song.vocals),
        accompaniment_db=accompaniment_db,
        accompaniment_gain_db=accompaniment_db - si_sdr_db(mix, song.accompaniment),
        shares=tuple(vocal_share(active, start_s, CHUNK_S) for start_s in starts_s),
        true_shares=tuple(sung_share(song.sung, start_s, CHUNK_S) for start_s in starts_s),
    )


def sung_share(sung: Iterable[tuple[float, float]], start_s: float, duration_s: float) -> float:
    """Share of [start_s, start_s + duration_s) that disjoint stretches (start, end), in seconds, cover.

    Those of a synthetic song begin with the breath and end with the room, some 0.5 s around what is loud
    enough for `vocal_activity`, so that its shares are a little lower on the true stems.
    """
    end_s = start_s + duration_s
    covered_s = sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end in sung)
    return covered_s / duration_s


def _name(config: SeparatorConfig) -> str:
    return f"demucs {config.model}" if config.name == "demucs" else config.name


def _load(config: SeparatorConfig, device: torch.device) -> Separator | str:
    try:
        return load_separator(config, device)
    except MissingPartError as error:
        return str(error)


def _estimates(song: SyntheticSong, separators: dict[str, Separator]) -> Iterator[tuple[str, Audio]]:
    yield TRUE_STEMS, song.vocals
    for name, separator in separators.items():
        yield name, separator.vocals(song.mix)


def _decibels(values: Sequence[tuple[float, float]]) -> str:
    level_db, gain_db = (fmean(column) for column in zip(*values, strict=True))
    return "exact" if level_db > EXACT_DB else f"{level_db:.1f} ({gain_db:+.1f})"
