"""A picture of what was made, in the same time and memory however long it is."""

from pathlib import Path

import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE

N_FFT = 4096
MOST_COLUMNS = 1000  # more than the page has pixels
MEL_BANDS = 96
RANGE_DB = 80.0
GREY = "#808080"  # to be read on a light page and on a dark one
TICKS_HZ = (125, 500, 2000, 8000)


def draw_spectrograms(tracks: dict[str, Path], picture: Path) -> None:
    """Draw mel spectrograms of files of ours, one above the other, as a PNG with a transparent background."""
    figure = Figure(figsize=(9, 2.2 * len(tracks)), layout="constrained", facecolor="none")
    axes = figure.subplots(len(tracks), 1, sharex=True, squeeze=False)[:, 0]
    for plot, (name, track) in zip(axes, tracks.items(), strict=True):
        _draw(plot, mel_spectrogram(track), soundfile.info(track).duration)
        plot.set_title(name, loc="left", color=GREY, fontsize=10)
        plot.label_outer()
    axes[-1].set_xlabel("seconds", color=GREY)
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": ""})


def mel_spectrogram(track: Path) -> NDArray[np.float32]:
    """Levels of a file's mean channel in dB under its loudest, (96 mel bands, at most 1000 columns).

    Of a longer file, as many windows of 93 ms are read as there are columns, evenly spread.
    """
    import librosa

    spectra = np.abs(np.fft.rfft(_windows(track) * np.hanning(N_FFT))) ** 2
    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=MEL_BANDS)
    return librosa.power_to_db(bands @ spectra.T, ref=np.max, top_db=RANGE_DB).astype(np.float32)


def _windows(track: Path) -> NDArray[np.float64]:
    """(columns, 4096) samples of the mean channel, silence where the file has ended."""
    with soundfile.SoundFile(track) as file:
        columns = min(MOST_COLUMNS, -(-file.frames // (N_FFT // 2)))
        windows = np.zeros((max(columns, 1), N_FFT))
        last = max(file.frames - N_FFT, 0)
        for column, start in enumerate(np.linspace(0, last, columns, dtype=int)):
            file.seek(start)
            samples = file.read(N_FFT, always_2d=True).mean(axis=1)
            windows[column, : len(samples)] = samples
    return windows


def _draw(plot: Axes, levels_db: NDArray[np.float32], duration_s: float) -> None:
    import librosa

    plot.imshow(
        levels_db, origin="lower", aspect="auto", extent=(0, duration_s, 0, MEL_BANDS),
        vmin=-RANGE_DB, vmax=0, cmap="magma", interpolation="nearest",
    )  # fmt: skip
    centres_hz = librosa.mel_frequencies(n_mels=MEL_BANDS + 2, fmin=0.0, fmax=SAMPLE_RATE / 2)[1:-1]
    places = np.interp(TICKS_HZ, centres_hz, np.arange(MEL_BANDS)) + 0.5
    plot.set_yticks(places, [f"{hertz / 1000:g}" for hertz in TICKS_HZ])
    plot.set_ylabel("kHz", color=GREY)
    plot.tick_params(colors=GREY)
    for spine in plot.spines.values():
        spine.set_visible(False)
