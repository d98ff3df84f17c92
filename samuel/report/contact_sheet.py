"""A look into a dataset, and a listen: pairs as spectrograms on one sheet, with clips beside it.

Shapes: C latent channels, T frames; (2, S) audio at 44.1 kHz; spectrograms (64, F) in dB.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from samuel.artifacts import replacing
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.codecs.base import Codec, same_codec
from samuel.errors import MissingPartError
from samuel.evaluate.features import log_mel_db
from samuel.generate import mix
from samuel.popdb.dataset import STREAMS, Popdb
from samuel.popdb.stages import HOP_S, vocal_activity
from samuel.report.plots import band_of, drawable, save

SHEET = "contact-sheet.png"
CLIP_S = 15.0
WIDTH_INCHES, ROW_INCHES = 12.0, 1.7
TOP_INCHES, BOTTOM_INCHES = 0.3, 0.5
LONGEST_NAME = 40
DECIBELS = {"vmin": -80.0, "vmax": 0.0, "cmap": "magma"}
DEVIATIONS = {"vmin": -3.0, "vmax": 3.0, "cmap": "RdBu_r"}
TICKS_HZ = (500, 2000, 8000)

Row = dict[str, Any]
Strip = tuple[Row, list[NDArray[Any]], tuple[float, float] | None]
"""A row of the index, a picture (64, F) of each stream, and where the clip begins and ends in the chunk."""


def choose_strips(popdb: Popdb, count: int) -> list[Row]:
    """Choose at most `count` pairs from the least to the most sung, of as many different songs as can be."""
    rows = sorted(popdb.index, key=lambda row: (row["vocal_share"] or -1.0, row["pair_id"]))
    last, count = len(rows) - 1, min(count, len(rows))
    places = [last // 2] if count == 1 else np.linspace(0, last, count).round().astype(int).tolist()
    chosen: dict[int, str] = {}
    for place in places:
        songs = set(chosen.values())
        free = (i for i in range(len(rows)) if i not in chosen)
        best = min(free, key=lambda i: (rows[i]["song_id"] in songs, abs(i - place), i))
        chosen[best] = rows[best]["song_id"]
    return [rows[i] for i in sorted(chosen)]


def write_contact_sheet(
    popdb: Popdb, rows: Sequence[Row], codec: Codec | None, folder: Path,
    on_pair: Callable[[], object] = lambda: None,
) -> Path:  # fmt: skip
    """Write `contact-sheet.png`, and of each pair the 15 s with most singing as WAV files beside it.

    The clips are `<pair_id>-vocal.wav`, `-accompaniment.wav` and `-mix.wav`, 16 bits. The sheet shows what
    was decoded, all of it on one scale; without a codec it shows the latents, and there are no clips.
    Files of these names are replaced, each in one step, the sheet last; `on_pair` is called after each pair.

    Raises:
        DatasetError: The latents of a pair are not those that were written.
        MissingPartError: The codec is another.
    """
    if codec and not same_codec(popdb.codec, codec.info):
        held = f"the dataset holds latents of {popdb.codec}, the codec at hand is {codec.info}"
        raise MissingPartError(f"{held}; give the weights of the former")
    strips: list[Strip] = []
    for row in rows:
        latents = [stream.float() for stream in popdb.read_checked(row)]
        if codec:
            stems = [codec.decode(stream[None])[0].float().cpu().numpy() for stream in latents]
            clip_s = most_sung_s(stems[0], stems[1])
            vocal, accompaniment = (
                stem[:, slice(*(round(s * SAMPLE_RATE) for s in clip_s))] for stem in stems
            )
            # The dataset may be anybody's, and its pair ids any text.
            name = re.sub(r"[^\w-]", "_", row["pair_id"], flags=re.ASCII)[:100]
            clips = (vocal, accompaniment, mix(vocal, accompaniment))
            for stem, clip in zip((*STREAMS, "mix"), clips, strict=True):
                with replacing(folder / f"{name}-{stem}.wav") as temporary:
                    write_wav(temporary, clip, "PCM_16")
            strips.append((row, [log_mel_db(stem) for stem in stems], clip_s))
        else:
            pictures = []
            for of, stream in zip(STREAMS, latents, strict=True):
                mean, std = (np.array(popdb.stats[of][name])[:, None] for name in ("mean", "std"))
                pictures.append((stream.numpy() - mean) / std)
            strips.append((row, pictures, None))
        on_pair()
    with replacing(folder / SHEET) as temporary:
        chunk_s = popdb.codec.duration_s(popdb.info["chunk_frames"])
        save(draw_sheet(strips, chunk_s, decoded=codec is not None), temporary, dpi=100)
    return folder / SHEET


def most_sung_s(vocal: Audio, accompaniment: Audio, length_s: float = CLIP_S) -> tuple[float, float]:
    """First and last second of the stretch of `length_s` in which most is sung, the first of several."""
    duration_s = vocal.shape[1] / SAMPLE_RATE
    if duration_s <= length_s:
        return 0.0, duration_s
    sung = np.concatenate([[0], np.cumsum(vocal_activity(vocal, vocal + accompaniment))])
    frames = round(length_s / HOP_S)
    start_s = min(int(np.argmax(sung[frames:] - sung[:-frames])) * HOP_S, duration_s - length_s)
    return start_s, start_s + length_s


def draw_sheet(strips: Sequence[Strip], chunk_s: float, *, decoded: bool) -> Figure:
    """Draw a row for each pair, both streams side by side, on one scale: dB, or standard deviations."""
    height = TOP_INCHES + ROW_INCHES * len(strips) + BOTTOM_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height))
    # Fixed margins, and axes that share nothing: matplotlib takes time by the square of the rows otherwise.
    bottom, top = BOTTOM_INCHES / height, 1 - TOP_INCHES / height
    figure.subplots_adjust(left=0.05, right=0.91, bottom=bottom, top=top, wspace=0.05, hspace=0.25)
    axes = figure.subplots(len(strips), 2, squeeze=False)
    image: Any = None
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 2}
    for plots, (row, pictures, clip_s) in zip(axes, strips, strict=True):
        for plot, name, picture in zip(plots, STREAMS, pictures, strict=True):
            image = plot.imshow(
                picture, origin="lower", aspect="auto", extent=(0, chunk_s, 0, len(picture)),
                interpolation="nearest", **(DECIBELS if decoded else DEVIATIONS),
            )  # fmt: skip
            plot.text(
                0.99, 0.94, name, transform=plot.transAxes, ha="right", va="top", color="white", bbox=box
            )
            for second in clip_s or ():
                plot.axvline(second, color="white", linewidth=1, linestyle="--")
            if decoded:
                plot.set_yticks(band_of(TICKS_HZ, 64), [f"{hertz / 1000:g}" for hertz in TICKS_HZ])
            plot.label_outer()
        share = row["vocal_share"]
        sung = "vocal share not measured" if share is None else f"sung {share:.0%}"
        start = "" if row["start_s"] is None else f"from {row['start_s']:.1f} s · "
        title, pair_id = (drawable(str(row[name] or ""))[:LONGEST_NAME] for name in ("title", "pair_id"))
        plots[0].set_title(f"{title} · {pair_id} · {start}{row['split']} · {sung}", loc="left", fontsize=9)
        plots[0].set_ylabel("kHz" if decoded else "channel")
    for plot in axes[-1]:
        plot.set_xlabel("seconds of the chunk; between the lines: the clip" if decoded else "seconds")
    label = "mel power, dB" if decoded else "standard deviations from the channel's mean"
    figure.colorbar(image, cax=figure.add_axes((0.925, bottom, 0.012, top - bottom)), label=label)
    return figure
