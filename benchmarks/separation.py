"""Separators against truth: synthetic songs, whose stems and sung stretches are known.

Shapes: (2, S) audio at 44.1 kHz.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from statistics import fmean

from samuel.audio import Audio, si_sdr_db
from samuel.codecs.mel import MelCodec
from samuel.config import PopdbConfig, SeparatorConfig, Settings
from samuel.device import resolve_device
from samuel.errors import MissingPartError
from samuel.popdb.vocal_activity import vocal_activity, vocal_share
from samuel.separators import Separator, load_separator
from samuel.synthetic.song import SyntheticSong, compose

SONGS = 12
CHUNK_S = MelCodec.info.duration_s(PopdbConfig().chunk_frames)
TRUE_STEMS = "true stems"
EXACT_DB = 100.0  # rounding to float32 costs some 150 dB


@dataclass(frozen=True)
class Separation:
    """How one song was separated: SI-SDR, and the same less that of the mix taken for the stem as it is."""

    vocals_db: float
    vocals_gain_db: float
    accompaniment_db: float
    accompaniment_gain_db: float
    share: float  # vocal share of the whole chunks, measured on the separated vocals
    true_share: float  # the same by the score
    share_error: float  # mean absolute error over the chunks


def rows(settings: Settings, songs: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield (separator, means over the songs); the true stems tell what `vocal_activity` errs by alone."""
    chosen = settings.separator if settings.separator.name == "demucs" else SeparatorConfig(name="demucs")
    configs = {"repet": SeparatorConfig(), f"demucs {chosen.model}": chosen}
    separators: dict[str, Separator | None] = {TRUE_STEMS: None}
    for name, config in configs.items():
        try:
            separators[name] = load_separator(config, resolve_device(settings.device))
        except MissingPartError as error:
            yield name, f"not measured: {error}"
    found: dict[str, list[Separation]] = {name: [] for name in separators}
    for song in (compose(seed=0, index=index) for index in range(songs or SONGS)):
        for name, separator in separators.items():
            found[name].append(compare(song, separator.vocals(song.mix) if separator else song.vocals))
    for name, measured in found.items():
        vocals, gain, rest, rest_gain, share, true, error = map(
            fmean, zip(*map(astuple, measured), strict=True)
        )
        stems = (
            "stems exact"
            if vocals > EXACT_DB
            else f"vocals {vocals:.1f} dB ({gain:+.1f}), accompaniment {rest:.1f} dB ({rest_gain:+.1f})"
        )
        yield name, f"{stems}, vocal share {share:.3f} of {true:.3f}, error {error:.3f}"


def compare(song: SyntheticSong, vocals: Audio) -> Separation:
    """Compare what a separator took for the vocals, and the rest of the mix, with the true stems."""
    vocals_db = si_sdr_db(vocals, song.vocals)
    accompaniment_db = si_sdr_db(song.mix - vocals, song.accompaniment)
    active = vocal_activity(vocals, song.mix)
    starts_s = [chunk * CHUNK_S for chunk in range(int(song.duration_s / CHUNK_S))]
    shares = [(vocal_share(active, s, CHUNK_S), sung_share(song.sung, s, CHUNK_S)) for s in starts_s]
    return Separation(
        vocals_db,
        vocals_db - si_sdr_db(song.mix, song.vocals),
        accompaniment_db,
        accompaniment_db - si_sdr_db(song.mix, song.accompaniment),
        fmean(share for share, _ in shares),
        fmean(true for _, true in shares),
        fmean(abs(share - true) for share, true in shares),
    )


def sung_share(sung: Iterable[tuple[float, float]], start_s: float, duration_s: float) -> float:
    """Share of [start_s, start_s + duration_s) that disjoint stretches (start, end), in seconds, cover.

    Those of a synthetic song have breath and room: `vocal_activity` finds a little less on the true stems.
    """
    end_s = start_s + duration_s
    covered_s = sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end in sung)
    return covered_s / duration_s
