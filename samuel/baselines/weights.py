"""Other systems' weights: where they lie, whether they are what they should be, what stands for them."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samuel.artifacts import digest, read_json, sha256
from samuel.errors import MissingPartError
from samuel.hub import hub_error, quietly

INSTALL = "pip install 'samuel[baselines]', or in a copy of the repository: uv pip install '.[baselines]'"
MOST_NAMES = 3


def require_packages(system: str, *names: str) -> None:
    """Say what to install, before gigabytes are fetched.

    Raises:
        MissingPartError: A package is not there.
    """
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise MissingPartError(f"{system} needs {' and '.join(missing)}: {INSTALL}")


def model_folder(model: str, patterns: Sequence[str]) -> Path:
    """The folder of a model: a local one, or a repository of the hub as it lies in the hub's cache.

    Args:
        model: A folder, or `owner/name`.
        patterns: Which files of the repository are fetched; none that would have to be unpickled.

    Raises:
        MissingPartError: There is no such folder, or the repository is gated, absent or out of reach.
        OperatorError: The disk is full.
    """
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


def model_name(model: str) -> str:
    """What records call a model: a repository by its name, a folder by its last part alone."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def require_kind(file: Path, key: str, kind: str) -> None:
    """Refuse another model by what its own configuration says, before its weights are read.

    Args:
        file: A configuration, JSON.
        key: What in it names the kind of model.
        kind: The one that is wanted.

    Raises:
        MissingPartError: The file is absent, damaged, or of another kind of model.
    """
    try:
        found = read_json(file)[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingPartError(
            f"{file}: cannot be read as the configuration of a {kind} ({type(error).__name__});"
            " give the whole folder, or fetch it again"
        ) from error
    if found != kind:
        raise MissingPartError(f"{file}: of another model, {key} is {found!r:.80}, not {kind!r}")


def loaded(network: Any, folder: Path, **options: Any) -> Any:
    """A network by its library's own `from_pretrained`, from safetensors alone, every tensor in its place.

    Args:
        network: The class.
        folder: Holds its configuration and weights.
        options: What else the loader is told.

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
    _require_whole(folder, found)
    return built


def _require_whole(folder: Path, found: Mapping[str, Any]) -> None:
    """Refuse weights of another layout, which the libraries would make up for with random numbers.

    Tensors to spare are let pass: what older releases of the libraries saved, newer ones compute.
    """
    complaints = [
        f"{len(found[key])} {words} ({', '.join(sorted(map(str, found[key]))[:MOST_NAMES])!s:.300})"
        for key, words in (
            ("missing_keys", "tensors are missing"),
            ("mismatched_keys", "tensors are of another shape"),
        )
        if found.get(key)
    ]
    if complaints:
        raise MissingPartError(
            f"{folder}: weights of another layout: {'; '.join(complaints)}; fetch it again"
        )


def unusable(folder: Path, error: Exception) -> MissingPartError:
    """What to say where a library cannot make a network of the files."""
    lines = str(error).splitlines() or [""]
    return MissingPartError(
        f"{folder}: not usable ({type(error).__name__}: {lines[0]:.300});"
        " fetch it again, or take another model"
    )


def weights_of(folder: Path, patterns: Sequence[str]) -> str:
    """Twenty hexadecimal digits that stand for a model's files, and for none that lie beside them."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest({path.relative_to(folder).as_posix(): sha256(path) for path in files})


@contextmanager
def hushed() -> Iterator[None]:
    """Keep the prints, warnings, logs and bars of transformers and diffusers to themselves."""
    with quietly():
        from diffusers.utils import logging as diffusers_words
        from transformers.utils import logging as transformers_words

    libraries: tuple[Any, ...] = (diffusers_words, transformers_words)
    levels = [library.get_verbosity() for library in libraries]
    bars = transformers_words.is_progress_bar_enabled()
    try:
        for library in libraries:
            library.set_verbosity(library.CRITICAL)
        transformers_words.disable_progress_bar()
        with quietly():
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bars:
            transformers_words.enable_progress_bar()
