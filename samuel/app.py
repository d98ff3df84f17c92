"""`samuel app`: a page where a vocal goes up and an accompaniment comes down. Nothing leaves the machine.

It needs gradio, which the extra `app` brings.
"""

import html
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from gradio.http_server import start_server
from gradio.themes import Soft
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import Sampler, SamplingConfig, parse
from samuel.errors import InputError, SamuelError, StoppedError
from samuel.generate import Request, generate
from samuel.generate.takes import require_codec
from samuel.report.plots import plot_spectrograms
from samuel.separators import Separator
from samuel.web import HOST, Guard

MAX_UPLOAD = 10**9  # bytes; fifteen minutes of 96 kHz stereo float are 0.7 GB
MAX_KEPT = 8 * 10**9  # bytes of all that lies here
MAX_WAITING = 16  # runs
KEPT = (600, 4 * 3600)  # s between looks for what to remove, and its age
INTRODUCTION = "# SAMUeL\nGive it a vocal, and it writes the band: as long as the vocal, on this machine."
FULL = "Too much lies here already: it goes after four hours, or when the page is started again."
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
        self._stops = dict[str | None, threading.Event]()  # visitor whose run it is → ends it
        self._arriving = 0  # bytes
        (folder / "served").mkdir()
        with gr.Blocks(title="SAMUeL", analytics_enabled=False, delete_cache=KEPT) as self._blocks:
            self._lay_out()
            self._blocks.unload(self._stop)
        self._blocks.queue(api_open=False, default_concurrency_limit=1, max_size=MAX_WAITING)

    @contextmanager
    def served(self, port: int, password: str) -> Iterator[str]:
        """Serve it to this machine alone, at an address that has the password; an InputError where taken."""
        site = FastAPI(openapi_url=None)
        site.get("/open")(_without_password)
        site.post("/gradio_api/upload")(self._receive)  # in the place of gradio's
        for other in ("component_server", "process_recording"):  # which keep what comes, however much
            site.post(f"/gradio_api/{other}{{rest:path}}")(_absent)
        gr.mount_gradio_app(
            site, self._blocks, "/", server_name=HOST, server_port=port, footer_links=[], run_history=False,
            enable_monitoring=False, ssr_mode=False, mcp_server=False, css=STYLE, show_error=False,
            theme=Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )  # fmt: skip
        try:
            *_, server = start_server(Guard(site, f"samuel:{password}"), HOST, port)  # type: ignore[arg-type]
        except OSError as error:
            raise InputError(f"port {port} is taken, or not for you; choose another with --port") from error
        try:
            yield f"http://samuel:{quote(password, safe='')}@{HOST}:{port}/open"
        finally:
            for stop in list(self._stops.values()):
                stop.set()
            self._codec.cancel()
            self._separator.cancel()
            self._blocks.close(verbose=False)  # the pages that are open, which would hold the server
            server.close()

    async def _receive(self, request: HttpRequest) -> Response:
        """Keep the file that a visitor sends, and give its path, as gradio's page expects."""
        length = int(request.headers.get("content-length", MAX_UPLOAD + 1))
        if length > MAX_UPLOAD:
            return PlainTextResponse("The file is larger than 1 GB, or does not say how large it is.", 413)
        self._arriving += length
        try:
            if await run_in_threadpool(self._bytes_kept) + self._arriving > MAX_KEPT:
                return PlainTextResponse(FULL, 507)
            async with request.form(max_files=1, max_fields=1) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    return PlainTextResponse("There is no file in it.", 400)
                return JSONResponse([await run_in_threadpool(self._keep, file)])
        finally:
            self._arriving -= length

    def _keep(self, file: UploadFile) -> str:
        given = Path(file.filename or "")
        stem, suffix = (re.sub(r"\W+", " ", part).strip() for part in (given.stem, given.suffix))
        name = f"{stem[:50] or 'vocal'}.{suffix[:8] or 'wav'}"
        path = Path(tempfile.mkdtemp(dir=self._folder / "served"), name)
        with path.open("wb") as kept:
            shutil.copyfileobj(file.file, kept, 2**20)
        self._blocks.upload_file_set.add(str(path))
        return str(path)

    def _bytes_kept(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with suppress(FileNotFoundError):  # removed in the meantime
                    total += Path(folder, name).lstat().st_size
        return total

    def _stop(self, request: gr.Request) -> None:
        """End the run of a visitor, who wants it so or has left."""
        if stop := self._stops.get(request.session_hash):
            stop.set()

    def accompany(
        self, vocal: str | None, is_song: bool, length_s: float | None, suffix: str | None, steps: int | None,
        guidance_scale: float | None, seed: int | None, sampler: str, http: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (where gradio looks for it)
    ) -> Iterator[list[Any]]:  # fmt: skip
        """Make an accompaniment of what the fields hold; a generator, so that its files last until copied."""
        visitor = http.session_hash
        self._stops[visitor] = stop = threading.Event()

        def on_progress(what: str, done: int, of: int) -> None:
            if stop.is_set():
                raise StoppedError("Stopped. Nothing of it was kept.")
            progress((done, of), desc=STAGES[what])

        sampling = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed, "sampler": sampler}
        chosen = {"sampling": sampling, "diffusion": self._model.diffusion.model_dump()}
        try:
            if vocal is None:
                raise InputError("There is no vocal yet: upload a file, or record one.")
            if self._bytes_kept() > MAX_KEPT:
                raise InputError(FULL)
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
        finally:
            self._stops.pop(visitor, None)

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
        making = make.click(
            self.accompany,
            [vocal, is_song, length_s, suffix, steps, guidance, seed, sampler],  # as `accompany` takes them
            [*tracks, picture, *files],  # as it yields them
            show_progress_on=tracks[0], trigger_mode="once", concurrency_limit=1, api_visibility="private"
        )  # fmt: skip
        # What waits is gradio's to cancel.
        stop.click(self._stop, queue=False, cancels=[making], api_visibility="private")


def _absent() -> Response:
    return Response(status_code=404)


def _without_password(request: HttpRequest) -> Response:
    """Lead to the page: where an address has user and password, a browser lets it load nothing."""
    return RedirectResponse(str(request.base_url))
