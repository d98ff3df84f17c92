"""Systems of other libraries: their weights are fetched, checked before use, and identified by digest."""

import importlib.util
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch

from samuel.artifacts import digest, read_json, sha256
from samuel.baselines.base import DTYPES, Renderer, precision_on
from samuel.config import BaselineConfig
from samuel.errors import MissingPartError
from samuel.hub import hub_error, quietly

INSTALL = "pip install 'samuel[baselines]', or in a copy of the repository: uv pip install '.[baselines]'"
MOST_NAMES = 3


class Pretrained(Renderer):
    """A system of another library, from the hub or a folder in that library's layout.

    A subclass names the `packages` it needs, the `files` of a repository that it reads (none that would have
    to be unpickled), and the `kinds` of model: configuration file → key in it and the value wanted there.

    Args:
        model: `owner/name` or a folder.
        config: How it samples.
        device: Where it computes.

    Raises:
        MissingPartError: A package is missing, or the weights are absent, gated, damaged or of another kind.
        OperatorError: The disk is full.
    """

    packages: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]
    kinds: ClassVar[dict[str, tuple[str, str]]]

    def __init__(self, model: str, config: BaselineConfig, device: torch.device) -> None:
        if missing := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            raise MissingPartError(f"{self.name} needs {' and '.join(missing)}: {INSTALL}")
        self.config: Any = config
        folder, precision = model_folder(model, self.files), precision_on(config, device)
        for file, (key, kind) in self.kinds.items():
            require_kind(folder / file, key, kind)
        with quiet_libraries():
            network = self.load(folder, DTYPES[precision], device)
        name = folder.resolve().name if Path(model).expanduser().is_dir() else model
        weights = files_digest(folder, self.files)
        super().__init__(name, network, config, device, precision=precision, weights=weights)

    @abstractmethod
    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Load all parts of it, and return the network whose parameters count."""


def model_folder(model: str, patterns: Sequence[str]) -> Path:
    """The folder of a model: a local one, or a repository of the hub as it lies in the hub's cache."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise MissingPartError(f"{model}: no such folder, and no hub repository (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except Exception as error:
        remedy = "or give --model a folder that holds the whole repository"
        raise hub_error(error, model, remedy) from error


def files_digest(folder: Path, patterns: Sequence[str]) -> str:
    """Twenty hexadecimal digits that stand for a model's files, and for none that lie beside them."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest({path.relative_to(folder).as_posix(): sha256(path) for path in files})


def require_kind(file: Path, key: str, kind: str) -> None:
    """Refuse another model by what its own configuration says, before its weights are read."""
    try:
        found = read_json(file)[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingPartError(
            f"{file}: cannot be read as the configuration of a {kind} ({type(error).__name__});"
            " give the whole folder, or fetch it again"
        ) from error
    if found != kind:
        raise MissingPartError(f"{file}: of another model, {key} is {found!r:.80}, not {kind!r}")


def load_network(network: Any, folder: Path, **options: Any) -> Any:
    """Load a network by its library's own `from_pretrained`, from safetensors alone and whole.

    The libraries make up for missing tensors with random numbers. Tensors to spare are let pass: what older
    releases saved, newer ones compute.

    Args:
        network: The class.
        folder: Holds its configuration and weights.
        options: Other arguments of the loader.

    Raises:
        MissingPartError: The weights are absent, damaged or of another layout.
    """
    if not any(folder.glob("*.safetensors")):
        raise MissingPartError(
            f"{folder}: holds no safetensors; pickled weights (.bin, .ckpt) are never read"
        )
    try:
        built, found = network.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:
        raise unusable(folder, error) from error
    kinds = {"missing_keys": "tensors are missing", "mismatched_keys": "tensors are of another shape"}
    complaints = [
        f"{len(found[key])} {words} ({', '.join(sorted(map(str, found[key]))[:MOST_NAMES])!s:.300})"
        for key, words in kinds.items()
        if found.get(key)
    ]
    if complaints:
        raise MissingPartError(
            f"{folder}: weights of another layout: {'; '.join(complaints)}; fetch it again"
        )
    return built


def unusable(folder: Path, error: Exception) -> MissingPartError:
    """The error to raise where a library cannot make a network of the files."""
    lines = str(error).splitlines() or [""]
    return MissingPartError(
        f"{folder}: not usable ({type(error).__name__}: {lines[0]:.300});"
        " fetch it again, or take another model"
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the prints, warnings, logs and progress bars of transformers and diffusers."""
    with quietly():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = transformers_logging.is_progress_bar_enabled()
    try:
        for library in libraries:
            library.set_verbosity(library.CRITICAL)
        transformers_logging.disable_progress_bar()
        with quietly():
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
