"""What this machine has, what it lacks, and what to do about it."""

import glob
import os
import platform
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samuel.config import Settings
from samuel.errors import InputError, MissingPartError, SamuelError

FREE_GIB_WANTED = 3  # the demo takes 2.7; what a list of songs needs is told before its first download


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    name: str
    state: Literal["present", "reachable", "gated", "missing"]  # reachable: fetched when first used
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
    threads = Finding("torch", "present", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    machine = [python, threads, _gpu(settings), _ffmpeg(), _javascript(), _disk(settings)]
    return [*machine, *_dataset(settings), *(look(settings) for look in WEIGHTS.values())]


def dataset_parts(settings: Settings) -> set[str]:
    """The named choices that building the dataset uses."""
    return {settings.songs.source, settings.separator.name, settings.codec.name}


def training_parts(settings: Settings) -> set[str]:
    """The named choices that training, generation and scoring need, scorers where their weights are named."""
    named = {"audiobox": settings.evaluation.audiobox_path, "apa": settings.evaluation.apa_path}
    return {settings.codec.name, *(name for name in settings.evaluation.scorers if named.get(name))}


def unmeasured(settings: Settings) -> list[Finding]:
    """Chosen scorers whose weights are not at hand, for a warning before hours of training."""
    looks = [look for name, look in WEIGHTS.items() if name in settings.evaluation.scorers]
    return [finding for look in looks if not (finding := look(settings)).usable]


def require(settings: Settings, parts: set[str]) -> list[Finding]:
    """Check what the named parts need, before any long work; a MissingPartError has a line for each lack."""
    needed = [_ffmpeg(), _disk(settings)]
    if parts - {"synthetic", "folder", "csv"}:  # songs are downloaded without; to look takes seconds
        needed += [_gpu(settings), *_dataset(settings)]
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
        gpu = torch.cuda.get_device_properties(0)
        return Finding("GPU", "present", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
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
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    if shutil.which("deno", path=os.pathsep.join(places)):
        return Finding("JavaScript", "present", "deno, for yt-dlp")
    return Finding("JavaScript", "missing", "no deno", "install yt-dlp[default,deno] again")


def _cookies(settings: Settings) -> Finding:
    from samuel.popdb.site import read_cookies

    if (path := settings.download.cookies) is None:
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
        return Finding("disk", "missing", f"{free:.1f} GiB free", f"free {FREE_GIB_WANTED}, or move `data`")
    return Finding("disk", "present", f"{free:.0f} GiB free")


def _dataset(settings: Settings) -> list[Finding]:
    """The place of a dataset behind a URL."""
    from samuel.popdb.dataset import MANIFEST, MOST_MANIFEST_BYTES
    from samuel.popdb.folder import open_folder

    if isinstance(url := settings.popdb_path, Path):
        return []
    try:
        there = open_folder(url).read(MANIFEST, MOST_MANIFEST_BYTES) is not None
    except (SamuelError, OSError) as error:
        return [Finding("dataset", "missing", f"{url}: {error}", "correct popdb.path, or what it needs")]
    return [Finding("dataset", "present" if there else "reachable", url)]


def _demucs(settings: Settings) -> Finding:
    from samuel.separators.demucs import hub_repository

    name, config = f"demucs ({settings.separator.model})", settings.separator
    if config.repo is None:
        repository, listing = hub_repository(config.model)
        return weights(name, repository, [listing], "separator.repo")
    # A bag of models is a YAML file, a single one a .th file whose name begins with its signature.
    single = next(config.repo.glob(f"{glob.escape(config.model)}*.th"), None)
    file = single.name if single else f"{config.model}.yaml"
    return weights(name, config.repo, [file], "separator.repo")


def _stable_audio_open(settings: Settings) -> Finding:
    from samuel.codecs.stable_audio_open import FILES

    path = settings.codec.path
    return weights("stable-audio-open", Path(path) if Path(path).is_dir() else path, [*FILES], "codec.path")


def _audiobox(settings: Settings) -> Finding:
    from samuel.evaluate.pretrained import AUDIOBOX_FILES, AUDIOBOX_REPOSITORY

    path = settings.evaluation.audiobox_path
    place, files = (path.parent, [path.name]) if path else (AUDIOBOX_REPOSITORY, [*AUDIOBOX_FILES])
    return weights("audiobox", place, files, "evaluation.audiobox_path")


WEIGHTS: dict[str, Callable[[Settings], Finding]] = {
    "demucs": _demucs, "stable-audio-open": _stable_audio_open, "audiobox": _audiobox
}  # fmt: skip


def weights(name: str, place: Path | str, files: list[str], setting: str) -> Finding:
    """Whether files are in a folder, or in the cache of a hub's repository, or can be fetched from there."""
    from samuel.hub import cached, refusal

    if isinstance(place, Path):
        if absent := [file for file in files if not (place / file).is_file()]:
            return Finding(name, "missing", f"no {' and no '.join(absent)} in {place}", f"correct {setting}")
        return Finding(name, "present", f"local: {', '.join(files)}")
    if cached(place, files):
        return Finding(name, "present", f"in the hub cache: {place}")
    refused = refusal(place, files)
    if refused is None:
        return Finding(name, "reachable", f"{place}, fetched when first used")
    remedy = f"{refused.remedy}, or set {setting} to local weights"
    return Finding(name, "gated" if refused.gated else "missing", f"{place}: {refused.reason}", remedy)
