"""The page itself, by gradio: a vocal goes up, an accompaniment comes down."""

import html
import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import numpy as np
import soundfile
from gradio.themes import Soft
from matplotlib.figure import Figure
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import Sampler, SamplingConfig, parse
from samuel.errors import InputError, SamuelError, StoppedError
from samuel.generate import Request, generate
from samuel.separators import Separator

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_UPLOAD = "1gb"
"""Fifteen minutes of 96 kHz stereo float are 0.7 GB."""
CLEAN_EVERY_S, KEEP_S = 600, 4 * 3600
INTRODUCTION = (
    "# SAMUeL\nGive it a vocal, and it writes the band: an accompaniment of the same length, made on this "
    "machine."
)
SKETCH = (
    "**A sketch, not music quality.** This model learned from latents of the embedded codec `mel`, "
    "which has no weights: mono and hollow. For music, take a model of `stable-audio-open` latents."
)
STAGES = {
    "separate": "Taking the vocals out of the song",
    "encode": "Reading the vocal",
    "sample": "Writing the accompaniment",
    "decode": "Turning it into sound",
    "write": "Saving",
}
FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/]+/)+")
"""Of a path of this machine, all but its last name."""
STYLE = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
.stand-in:not(.stand-in .stand-in) {border-left: 4px solid #f59e0b; padding: 0.4em 0.8em !important}
.made-by:not(.made-by .made-by) {opacity: 0.7; font-size: 0.85em}
"""
DOWNLOADS = ("⬇ Accompaniment", "⬇ Mix", "⬇ Record (JSON)")
N_FFT = 4096
MAX_COLUMNS = 1000  # of a spectrogram: more than the page has pixels
MEL_BANDS = 96
RANGE_DB = 80.0
GREY = "#808080"  # to be read on a light page and on a dark one
TICKS_HZ = (125, 500, 2000, 8000)


class Page:
    """One model's page; `folder` is for files while they are made."""

    def __init__(self, model: TrainedModel, codec: Codec, separator: Separator, folder: Path) -> None:
        self._model, self._codec, self._separator, self._folder = model, codec, separator, folder
        self._stop, self._closing = threading.Event(), False
        self._blocks = gr.Blocks(
            title="SAMUeL", analytics_enabled=False, delete_cache=(CLEAN_EVERY_S, KEEP_S)
        )
        with self._blocks:
            self._lay_out()
        self._blocks.queue(api_open=False, default_concurrency_limit=1)

    def launch(self, port: int) -> str:
        """Begin to serve, in threads of gradio's; gives the address.

        Raises:
            InputError: The port is taken.
        """
        try:
            _, address, _ = self._blocks.launch(
                server_name=HOST, server_port=port, max_file_size=MAX_UPLOAD, share=False, quiet=True,
                prevent_thread_lock=True, footer_links=[], run_history=False, enable_monitoring=False,
                ssr_mode=False, mcp_server=False, theme=Soft(font=["system-ui", "sans-serif"],
                font_mono=["monospace"]), css=STYLE,
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"port {port} is taken, or not for you; choose another with --port") from error
        return address

    def close(self) -> None:
        """End what is being made, and serve no more."""
        self._closing = True
        self._stop.set()
        self._codec.cancel()
        self._separator.cancel()
        self._blocks.close(verbose=False)

    def accompany(
        self,
        vocal: str | None,
        is_song: bool,
        length_s: float | None,
        suffix: str | None,
        steps: int | None,
        guidance_scale: float | None,
        seed: int | None,
        sampler: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (where gradio looks for it)
    ) -> Iterator[list[Any]]:
        """Make an accompaniment of what the fields hold; a generator, so that its files last until copied."""
        if not self._closing:
            self._stop.clear()

        def on_progress(what: str, done: int, of: int) -> None:
            if self._stop.is_set():
                raise StoppedError("stopped from the page")
            progress((done, of), desc=STAGES[what])

        sampling = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed, "sampler": sampler}
        chosen = {"sampling": sampling, "diffusion": self._model.diffusion.model_dump()}
        with tempfile.TemporaryDirectory(dir=self._folder) as workspace, _shown_as_toasts(vocal, workspace):
            if vocal is None:
                raise InputError("There is no vocal yet: upload a file, or record one.")
            request = Request(
                vocal=Path(vocal),
                output=Path(workspace, f"accompaniment.{(suffix or 'wav').lower()}"),
                sampling=parse(chosen).sampling,
                length_s=length_s or None,
                separator=self._separator if is_song else None,
            )
            take = generate(request, self._model, self._codec, on_progress)[0]
            picture = request.output.with_suffix(".png")
            draw_spectrograms({"Accompaniment": take.accompaniment, "Mix": take.mix}, picture)
            files = [str(path) for path in (take.accompaniment, take.mix, take.record)]
            yield [
                *files[:2],
                str(picture),
                *(gr.DownloadButton(value=file, interactive=True) for file in files),
            ]

    def _lay_out(self) -> None:
        gr.Markdown(INTRODUCTION)
        if self._codec.info.name == "mel":
            gr.Markdown(SKETCH, elem_classes="stand-in")
        with gr.Row():
            with gr.Column(scale=2):
                fields = _fields()
                with gr.Row():
                    make = gr.Button("Accompany", variant="primary", scale=3)
                    stop = gr.Button("Stop", scale=1)
            with gr.Column(scale=3):
                results = _results()
        made_by = f"Model `{self._model.sha256[:12]}` · codec `{self._codec.info}`"
        gr.Markdown(made_by, elem_classes="made-by")
        make.click(
            self.accompany, fields, results, show_progress_on=results[0], trigger_mode="once",
            concurrency_limit=1, api_visibility="private",
        )  # fmt: skip
        stop.click(self._stop.set, queue=False, api_visibility="private")


def _fields() -> list[Any]:
    """The fields, in the order of `Page.accompany`."""
    default = SamplingConfig()
    vocal = gr.Audio(
        label="Vocal", sources=["upload", "microphone"], type="filepath", editable=False, buttons=[]
    )
    is_song = gr.Checkbox(label="It is a whole song: take its vocals out first")
    with gr.Row():
        length_s = gr.Number(0, label="Seconds", info="from the beginning; 0: all of it", minimum=0)
        suffix = gr.Radio(["WAV", "FLAC"], value="WAV", label="Files")
    with gr.Accordion("How it is drawn", open=False):
        with gr.Row():
            steps = gr.Number(default.steps, label="Steps", info="more: finer, slower", precision=0)
            guidance = gr.Number(default.guidance_scale, label="Guidance", info="1: none", step=0.5)
        with gr.Row():
            seed = gr.Number(default.seed, label="Seed", info="another seed, another take", precision=0)
            sampler = gr.Dropdown(list(get_args(Sampler)), value=default.sampler, label="Sampler", info=" ")
    return [vocal, is_song, length_s, suffix, steps, guidance, seed, sampler]


def _results() -> list[Any]:
    """What is shown, in the order that `Page.accompany` yields."""
    tracks = [
        gr.Audio(label=label, type="filepath", interactive=False, buttons=[])
        for label in ("Accompaniment", "Mix with the vocal")
    ]
    picture = gr.Image(
        label="Spectrograms", type="filepath", format="png", interactive=False, buttons=[], show_label=False
    )
    with gr.Row():
        files = [gr.DownloadButton(label, size="md", interactive=False) for label in DOWNLOADS]
    return [*tracks, picture, *files]


class _Warnings(logging.Handler):
    """Shows on the page what the library warns of in the page's thread, such as a silent vocal."""

    def __init__(self, readable: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._readable, self._thread = readable, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            gr.Warning(self._readable(record.getMessage()))


@contextmanager
def _shown_as_toasts(vocal: str | None, workspace: str) -> Iterator[None]:
    """Show warnings and errors as sentences, without stack traces and without paths of this machine."""

    def readable(text: str) -> str:
        for path, name in ((vocal, Path(vocal or "").name), (f"{workspace}/", "")):
            text = text.replace(path, name) if path else text
        # The page takes it for HTML.
        return html.escape(FOLDERS.sub("", text), quote=False).replace("\n", "<br>")

    library, warnings = logging.getLogger("samuel"), _Warnings(readable)
    library.addHandler(warnings)
    title = "Error"
    try:
        yield
    except StoppedError:
        title, message = "Stopped", "Nothing of it was kept."
    except SamuelError as error:
        message = str(error)
    except OSError as error:
        logger.warning("%s", error, exc_info=error)
        reason = error.strerror or "a file could not be read or written"
        message = f"{reason}; the terminal of samuel app says more"
    except Exception:
        logger.exception("an accompaniment failed")
        message = "Something went wrong that should not; the terminal of samuel app says what."
    else:
        return
    finally:
        library.removeHandler(warnings)
    raise gr.Error(readable(message), duration=None, title=title, print_exception=False)


def draw_spectrograms(tracks: dict[str, Path], picture: Path) -> None:
    """Draw mel spectrograms of files of ours, one above the other, as a PNG with a transparent background."""
    import librosa

    figure = Figure(figsize=(9, 2.2 * len(tracks)), layout="constrained", facecolor="none")
    axes = figure.subplots(len(tracks), 1, sharex=True, squeeze=False)[:, 0]
    centres_hz = librosa.mel_frequencies(n_mels=MEL_BANDS + 2, fmin=0.0, fmax=SAMPLE_RATE / 2)[1:-1]
    ticks = np.interp(TICKS_HZ, centres_hz, np.arange(MEL_BANDS)) + 0.5
    for plot, (name, track) in zip(axes, tracks.items(), strict=True):
        plot.imshow(
            mel_spectrogram(track), extent=(0, soundfile.info(track).duration, 0, MEL_BANDS), origin="lower",
            aspect="auto", vmin=-RANGE_DB, vmax=0, cmap="magma", interpolation="nearest",
        )  # fmt: skip
        plot.set_title(name, loc="left", color=GREY, fontsize=10)
        plot.set_yticks(ticks, [f"{hertz / 1000:g}" for hertz in TICKS_HZ])
        plot.set_ylabel("kHz", color=GREY)
        plot.tick_params(colors=GREY)
        plot.spines[:].set_visible(False)
        plot.label_outer()
    axes[-1].set_xlabel("seconds", color=GREY)
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": ""})


def mel_spectrogram(track: Path) -> NDArray[np.float32]:
    """Measure levels of a file's mean channel in dB under its loudest, (96 mel bands, at most 1000 columns).

    Of a longer file, as many windows of 93 ms are read as there are columns, evenly spread: time and memory
    are the same however long it is.
    """
    import librosa

    with soundfile.SoundFile(track) as file:
        columns = max(1, min(MAX_COLUMNS, -(-file.frames // (N_FFT // 2))))
        windows = np.empty((columns, N_FFT))
        for column, start in enumerate(np.linspace(0, max(file.frames - N_FFT, 0), columns, dtype=int)):
            file.seek(start)
            windows[column] = file.read(N_FFT, always_2d=True, fill_value=0.0).mean(axis=1)
    spectra = np.abs(np.fft.rfft(windows * np.hanning(N_FFT))) ** 2
    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=MEL_BANDS)
    return librosa.power_to_db(bands @ spectra.T, ref=np.max, top_db=RANGE_DB).astype(np.float32)
