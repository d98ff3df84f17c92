"""`samuel app`: a page where a vocal goes up and an accompaniment comes down. Nothing leaves the machine.

It needs gradio, which the extra `app` brings.
"""

import html
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import gradio as gr
from gradio.themes import Soft

from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import Sampler, SamplingConfig, parse
from samuel.errors import InputError, SamuelError, StoppedError
from samuel.generate import Request, generate
from samuel.generate.takes import require_codec
from samuel.report.plots import plot_spectrograms
from samuel.separators import Separator

HOST = "127.0.0.1"
MAX_UPLOAD = "1gb"  # fifteen minutes of 96 kHz stereo float are 0.7 GB
CLEAN_EVERY_S, KEEP_S = 600, 4 * 3600
INTRODUCTION = "# SAMUeL\nGive it a vocal, and it writes the band: as long as the vocal, on this machine."
SKETCH = (
    "**A sketch, not music quality.** This model learned from latents of the embedded codec `mel`, "
    "which has no weights: mono and hollow. For music, take a model of `stable-audio-open` latents."
)
STAGES = {
    "separate": "Taking the vocals out of the song", "encode": "Reading the vocal",
    "sample": "Writing the accompaniment", "decode": "Turning it into sound", "write": "Saving"
}  # fmt: skip
FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/]+/)+")  # of a path of this machine, all but its last name
STYLE = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
.stand-in:not(.stand-in .stand-in) {border-left: 4px solid #f59e0b; padding: 0.4em 0.8em !important}
"""
DOWNLOADS = ("⬇ Accompaniment", "⬇ Mix", "⬇ Record (JSON)")


class Page:
    """One model's page; what goes up and what is made lies in `folder`."""

    def __init__(self, model: TrainedModel, codec: Codec, separator: Separator, folder: Path) -> None:
        """A CheckpointError where the model learned another codec's latents."""
        require_codec(model, codec)
        self._model, self._codec, self._separator, self._folder = model, codec, separator, folder
        self._stop, kept = threading.Event(), (CLEAN_EVERY_S, KEEP_S)
        with gr.Blocks(title="SAMUeL", analytics_enabled=False, delete_cache=kept) as self._blocks:
            self._lay_out()
        self._blocks.queue(api_open=False, default_concurrency_limit=1)

    @contextmanager
    def served(self, port: int) -> Iterator[str]:
        """Serve it to this machine alone, at the given address; an InputError where the port is taken."""
        try:
            _, address, _ = self._blocks.launch(
                server_name=HOST, server_port=port, max_file_size=MAX_UPLOAD, share=False, quiet=True,
                prevent_thread_lock=True, footer_links=[], run_history=False, enable_monitoring=False,
                ssr_mode=False, mcp_server=False, theme=Soft(font=["system-ui", "sans-serif"],
                font_mono=["monospace"]), css=STYLE,
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"port {port} is taken, or not for you; choose another with --port") from error
        try:
            yield address
        finally:
            self._stop.set()
            self._codec.cancel()
            self._separator.cancel()
            self._blocks.close(verbose=False)

    def accompany(
        self, vocal: str | None, is_song: bool, length_s: float | None, suffix: str | None, steps: int | None,
        guidance_scale: float | None, seed: int | None, sampler: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (where gradio looks for it)
    ) -> Iterator[list[Any]]:  # fmt: skip
        """Make an accompaniment of what the fields hold; a generator, so that its files last until copied."""
        self._stop.clear()

        def on_progress(what: str, done: int, of: int) -> None:
            if self._stop.is_set():
                raise StoppedError("Stopped. Nothing of it was kept.")
            progress((done, of), desc=STAGES[what])

        sampling = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed, "sampler": sampler}
        chosen = {"sampling": sampling, "diffusion": self._model.diffusion.model_dump()}
        try:
            if vocal is None:
                raise InputError("There is no vocal yet: upload a file, or record one.")
            with tempfile.TemporaryDirectory(dir=self._folder) as workspace:
                request = Request(
                    vocal=Path(vocal), output=Path(workspace, f"accompaniment.{(suffix or 'wav').lower()}"),
                    sampling=parse(chosen).sampling, length_s=length_s or None,
                    separator=self._separator if is_song else None,
                )  # fmt: skip
                take = generate(request, self._model, self._codec, on_progress)[0]
                picture = request.output.with_suffix(".png")
                plot_spectrograms({"Accompaniment": take.accompaniment, "Mix": take.mix}, picture)
                files = [str(path) for path in (take.accompaniment, take.mix, take.record)]
                buttons = [gr.DownloadButton(value=file, interactive=True) for file in files]
                yield [*files[:2], str(picture), *buttons]
        except (SamuelError, OSError) as error:  # the page takes it for HTML
            readable = html.escape(FOLDERS.sub("", str(error)), quote=False).replace("\n", "<br>")
            raise gr.Error(readable, duration=None, print_exception=False) from error

    def _lay_out(self) -> None:
        gr.Markdown(INTRODUCTION)
        if self._codec.info.name == "mel":
            gr.Markdown(SKETCH, elem_classes="stand-in")
        default, shown = SamplingConfig(), {"type": "filepath", "interactive": False, "buttons": []}
        with gr.Row():
            with gr.Column(scale=2):
                sources: list[Any] = ["upload", "microphone"]
                vocal = gr.Audio(label="Vocal", sources=sources, type="filepath", editable=False, buttons=[])
                is_song = gr.Checkbox(label="It is a whole song: take its vocals out first")
                with gr.Row():
                    length_s = gr.Number(0, label="Seconds", info="from the beginning; 0: all", minimum=0)
                    suffix = gr.Radio(["WAV", "FLAC"], value="WAV", label="Files")
                with gr.Accordion("How it is drawn", open=False):
                    with gr.Row():
                        steps = gr.Number(default.steps, label="Steps", info="more: finer", precision=0)
                        guidance = gr.Number(
                            default.guidance_scale, label="Guidance", info="1: none", step=0.5
                        )
                    with gr.Row():
                        seed = gr.Number(
                            default.seed, label="Seed", info="another seed, another take", precision=0
                        )
                        samplers = list(get_args(Sampler))
                        sampler = gr.Dropdown(samplers, value=default.sampler, label="Sampler", info=" ")
                with gr.Row():
                    make = gr.Button("Accompany", variant="primary", scale=3)
                    stop = gr.Button("Stop", scale=1)
            with gr.Column(scale=3):
                tracks = [gr.Audio(label=label, **shown) for label in ("Accompaniment", "Mix with the vocal")]
                picture = gr.Image(label="Spectrograms", format="png", show_label=False, **shown)
                with gr.Row():
                    files = [gr.DownloadButton(label, size="md", interactive=False) for label in DOWNLOADS]
        gr.Markdown(f"Model `{self._model.sha256[:12]}` · codec `{self._codec.info}`")
        make.click(
            self.accompany,
            [vocal, is_song, length_s, suffix, steps, guidance, seed, sampler],  # as `accompany` takes them
            [*tracks, picture, *files],  # as it yields them
            show_progress_on=tracks[0], trigger_mode="once", concurrency_limit=1, api_visibility="private"
        )  # fmt: skip
        stop.click(self._stop.set, queue=False, api_visibility="private")
