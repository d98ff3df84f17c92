"""What this machine has, what it lacks, and what to do about it."""

import glob
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samuel.config import Settings
from samuel.errors import InputError, MissingPartError, SamuelError

State = Literal["present", "reachable", "gated", "missing"]

STABLE_AUDIO_FILES = ["model_config.json", "model.safetensors"]
SOURCES = {"synthetic", "folder", "csv"}
FREE_GIB_WANTED = 3  # the demo takes 2.7; what a list of songs needs is told before its first download


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    name: str
    state: State  # reachable: will be fetched when first used; gated: once the terms are accepted
    detail: str
    remedy: str = ""

    @property
    def usable(self) -> bool:
        """True where work can start."""
        return self.state in ("present", "reachable")


def examine(settings: Settings) -> list[Finding]:
    """Everything the product can use, whether the settings name it or not."""
    import torch

    python = Finding("Python", "present", platform.python_version())
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        python = Finding("Python", "missing", platform.python_version(), "use Python 3.11 or 3.12")
    threads = Finding("torch", "present", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    machine = [python, threads, _gpu(settings), _ffmpeg(), _javascript(), _disk(settings)]
    machine += [_dataset(settings.popdb_path)] if isinstance(settings.popdb_path, str) else []
    return machine + [look(settings) for look in WEIGHTS.values()]


def dataset_parts(settings: Settings) -> set[str]:
    """The named choices that building the dataset uses."""
    return {settings.songs.source, settings.separator.name, settings.codec.name}


def training_parts(settings: Settings) -> set[str]:
    """The named choices that training, generation and scoring cannot do without.

    A scorer is one where the settings name its weights; what the hub will not give is not measured, and said
    to be.
    """
    named = {"audiobox": settings.evaluation.audiobox_path, "apa": settings.evaluation.apa_path}
    return {settings.codec.name, *(name for name in settings.evaluation.scorers if named.get(name))}


def unmeasured(settings: Settings) -> list[Finding]:
    """Chosen scorers whose weights are not at hand, for a warning before hours of training."""
    looks = [look for name, look in WEIGHTS.items() if name in settings.evaluation.scorers]
    return [finding for finding in (look(settings) for look in looks) if not finding.usable]


def require(settings: Settings, parts: set[str]) -> list[Finding]:
    """Check this machine and what the named parts need, before any long work.

    Raises:
        MissingPartError: One line per missing part: what, why, remedy.
    """
    needed = [_ffmpeg(), _disk(settings)]
    if parts - SOURCES:  # to look for a GPU takes seconds, and songs are downloaded without
        needed.append(_gpu(settings))
        if isinstance(settings.popdb_path, str):
            needed.append(_dataset(settings.popdb_path))
    if "csv" in parts:
        needed += [_javascript(), _cookies(settings)]
    needed += [look(settings) for name, look in WEIGHTS.items() if name in parts]
    lacking = [f"{f.name}: {f.state}, {f.detail}; {f.remedy}" for f in needed if not f.usable]
    if lacking:
        raise MissingPartError("\n".join(lacking))
    return needed


def table(findings: list[Finding]) -> str:
    """The findings as text, one a line, remedies below what they are for."""
    width, lines = max(len(finding.name) for finding in findings), []
    for finding in findings:
        lines.append(f"{finding.name:<{width}}  {finding.state:<9}  {finding.detail}")
        if finding.remedy:
            lines.append(f"{'':<{width}}  {'':<9}  → {finding.remedy}")
    return "\n".join(lines)


def _gpu(settings: Settings) -> Finding:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("GPU", "present", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    if settings.device == "cuda":
        return Finding("GPU", "missing", "torch sees none", "set device = 'auto' to compute on the CPU")
    return Finding("GPU", "present", "none; the CPU computes")


def _ffmpeg() -> Finding:
    from samuel.audio import ffmpeg
    from samuel.popdb.duplicates import supported

    try:
        without = "" if supported() else ", without Chromaprint: the same recording is known by its bytes"
        return Finding("ffmpeg", "present", Path(ffmpeg()).name + without)
    except RuntimeError as error:
        return Finding("ffmpeg", "missing", str(error), "install imageio-ffmpeg again")


def _javascript() -> Finding:
    scripts = sysconfig.get_path("scripts")
    if shutil.which("deno", path=os.pathsep.join([scripts, os.environ.get("PATH", "")])):
        return Finding("JavaScript", "present", "deno, for yt-dlp")
    return Finding("JavaScript", "missing", "no deno", "install yt-dlp[default,deno] again")


def _cookies(settings: Settings) -> Finding:
    from samuel.popdb.site import read_cookies

    path = settings.download.cookies
    if path is None:
        return Finding("cookies", "present", "none: the site sees a guest")
    try:
        read_cookies(path)
    except InputError as error:
        return Finding("cookies", "missing", str(error), "correct download.cookies")
    return Finding("cookies", "present", f"{path}: an account that the site may block")


def _disk(settings: Settings) -> Finding:
    folder = settings.data.resolve()
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(folder).free / 2**30
    if free < FREE_GIB_WANTED:
        remedy = f"free {FREE_GIB_WANTED} GiB, or move `data`"
        return Finding("disk", "missing", f"{free:.1f} GiB free", remedy)
    return Finding("disk", "present", f"{free:.0f} GiB free")


def _dataset(url: str) -> Finding:
    from samuel.popdb.dataset import MANIFEST, MOST_MANIFEST_BYTES
    from samuel.popdb.folder import open_folder

    try:
        there = open_folder(url).read(MANIFEST, MOST_MANIFEST_BYTES) is not None
    except (SamuelError, OSError) as error:
        return Finding("dataset", "missing", f"{url}: {error}", "correct popdb.path, or what it needs")
    return Finding("dataset", "present" if there else "reachable", url)


def _demucs(settings: Settings) -> Finding:
    from samuel.separators.demucs import hub_repository

    name, config = f"demucs ({settings.separator.model})", settings.separator
    if config.repo is None:
        repository, listing = hub_repository(config.model)
        return on_hub(name, repository, [listing], "separator.repo")
    # A bag of models is a YAML file, a single one a .th file whose name begins with its signature.
    single = next(config.repo.glob(f"{glob.escape(config.model)}*.th"), None)
    return _local(name, config.repo, [single.name if single else f"{config.model}.yaml"], "separator.repo")


def _stable_audio_open(settings: Settings) -> Finding:
    path = settings.codec.path
    look = _local if Path(path).is_dir() else on_hub
    return look("stable-audio-open", path, STABLE_AUDIO_FILES, "codec.path")


def _audiobox(settings: Settings) -> Finding:
    from samuel.evaluate.pretrained import AUDIOBOX_FILES, AUDIOBOX_REPOSITORY

    setting, path = "evaluation.audiobox_path", settings.evaluation.audiobox_path
    if path:
        return _local("audiobox", path.parent, [path.name], setting)
    return on_hub("audiobox", AUDIOBOX_REPOSITORY, list(AUDIOBOX_FILES), setting)


WEIGHTS: dict[str, Callable[[Settings], Finding]] = {
    "demucs": _demucs, "stable-audio-open": _stable_audio_open, "audiobox": _audiobox,
}  # fmt: skip


def _local(name: str, folder: Path | str, files: list[str], setting: str) -> Finding:
    absent = [file for file in files if not Path(folder, file).is_file()]
    if absent:
        return Finding(name, "missing", f"no {' and no '.join(absent)} in {folder}", f"correct {setting}")
    return Finding(name, "present", f"local: {', '.join(files)}")


def on_hub(name: str, repository: str, files: list[str], setting: str) -> Finding:
    """Whether files of a hub repository are in the local cache, or can be fetched."""
    from samuel.hub import cached, refusal

    if cached(repository, files):
        return Finding(name, "present", f"in the hub cache: {repository}")
    refused = refusal(repository, files)
    if refused is None:
        return Finding(name, "reachable", f"{repository}, fetched when first used")
    remedy = f"{refused.remedy}, or set {setting} to local weights"
    return Finding(name, "gated" if refused.gated else "missing", f"{repository}: {refused.reason}", remedy)
