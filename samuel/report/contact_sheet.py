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
from samuel.popdb.tables import Row
from samuel.popdb.vocal_activity import HOP_S, vocal_activity
from samuel.report.plots import band_of, drawable, save

SHEET, CLIP_S, LONGEST_NAME = "contact-sheet.png", 15.0, 40
WIDTH_INCHES, ROW_INCHES, TOP_INCHES, BOTTOM_INCHES = 12.0, 1.7, 0.3, 0.5
DECIBELS = {"vmin": -80.0, "vmax": 0.0, "cmap": "magma"}
DEVIATIONS = {"vmin": -3.0, "vmax": 3.0, "cmap": "RdBu_r"}
TICKS_HZ = (500, 2000, 8000)

Strip = tuple[Row, list[NDArray[Any]], tuple[float, ...]]
"""A row of the index, a picture (64, F) of each stream, and where the clip begins and ends in the chunk."""


def choose_strips(popdb: Popdb, count: int) -> list[Row]:
    """Choose at most `count` pairs from the least to the most sung, of as many different songs as can be."""
    rows = sorted(popdb.index, key=lambda row: (row["vocal_share"] or -1.0, row["pair_id"]))
    chosen: list[int] = []
    for place in np.linspace(0, len(rows) - 1, min(count, len(rows))):
        songs = {rows[i]["song_id"] for i in chosen}
        free = set(range(len(rows))) - set(chosen)
        chosen.append(min(free, key=lambda i: (rows[i]["song_id"] in songs, abs(i - place), i)))
    return [rows[i] for i in sorted(chosen)]


def write_contact_sheet(
    popdb: Popdb, rows: Sequence[Row], codec: Codec | None, folder: Path,
    on_pair: Callable[[], object] = lambda: None,
) -> Path:  # fmt: skip
    """Write `contact-sheet.png`, and of each pair the 15 s with most singing as WAV files beside it.

    The clips are `<pair_id>-vocal.wav`, `-accompaniment.wav` and `-mix.wav`, 16 bits. Without a codec the
    sheet shows the latents, and there are no clips. `on_pair` is called after each pair. DatasetError where
    latents are not those that were written, MissingPartError where the codec is another.
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
            clip = slice(*(round(second * SAMPLE_RATE) for second in clip_s))
            vocal, accompaniment = (stem[:, clip] for stem in stems)
            # The dataset may be anybody's, and its pair ids any text.
            name = re.sub(r"[^\w-]", "_", row["pair_id"], flags=re.ASCII)[:100]
            clips = (vocal, accompaniment, mix(vocal, accompaniment))
            for stem, audio in zip((*STREAMS, "mix"), clips, strict=True):
                with replacing(folder / f"{name}-{stem}.wav") as temporary:
                    write_wav(temporary, audio, "PCM_16")
            strips.append((row, [log_mel_db(stem) for stem in stems], clip_s))
        else:
            scales = [[np.array(popdb.stats[of][n])[:, None] for n in ("mean", "std")] for of in STREAMS]
            pictures = [(x.numpy() - mean) / std for x, (mean, std) in zip(latents, scales, strict=True)]
            strips.append((row, pictures, ()))
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
    for plots, (row, pictures, clip_s) in zip(axes, strips, strict=True):
        for plot, name, picture in zip(plots, STREAMS, pictures, strict=True):
            image = plot.imshow(
                picture, origin="lower", aspect="auto", extent=(0, chunk_s, 0, len(picture)),
                interpolation="nearest", **(DECIBELS if decoded else DEVIATIONS),
            )  # fmt: skip
            top_right = {"x": chunk_s, "y": len(picture), "ha": "right", "va": "top"}
            plot.text(s=name, **top_right, color="white", backgroundcolor="black")
            for second in clip_s:
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
