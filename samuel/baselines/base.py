"""Systems that accompany a vocal: their base class, our own model, and those of other libraries.

Weights of others are fetched, checked before use, and identified by digest.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch

from samuel.artifacts import digest, read_json, sha256
from samuel.audio import Audio
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import BaselineConfig, SamplingConfig
from samuel.errors import MissingPartError
from samuel.generate.takes import accompany
from samuel.hub import hub_error, quietly

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INSTALL = "pip install 'samuel[baselines]', or in a copy of the repository: uv pip install '.[baselines]'"


class Renderer(ABC):
    """A system, loaded and ready."""

    name: ClassVar[str]  # in reports
    conditioning: ClassVar[str]  # what it is given: "vocal", "text", "vocal, text"
    model: str  # the hub's repository, or the name of the folder, that its weights are from
    # Of the network that writes latents or tokens, without codec and text encoder: as the paper counts.
    parameters: int
    settings: dict[str, Any]  # all that determines its audio, the weights' digest and the base seed included

    def __init__(
        self,
        model: str,
        network: torch.nn.Module,
        config: SamplingConfig | BaselineConfig,
        device: torch.device,
        **identity: Any,
    ) -> None:
        self.model, self.device, self.seed = model, device, config.seed
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.settings = config.model_dump(mode="json") | identity

    @abstractmethod
    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S), S at least 1, → (2, S') about as long, float32 at 44.1 kHz; it may pass full scale.

        The same seed and vocal give the same samples on the same machine.

        Raises:
            InputError: The system cannot do it for this vocal.
        """


class Samuel(Renderer):
    """A trained model of ours, with the codec whose latents it learned."""

    name = "SAMUeL"
    conditioning = "vocal"

    def __init__(
        self, model: str, trained: TrainedModel, codec: Codec, sampling: SamplingConfig, device: torch.device
    ) -> None:
        identity = {"codec": codec.info.model_dump(), "weights": trained.sha256}
        super().__init__(model, trained.network, sampling, device, **identity)
        self.trained, self.codec, self.sampling = trained, codec, sampling

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S): what `samuel generate --seed` writes with the same seed."""
        sampling = self.sampling.model_copy(update={"seed": seed})
        return accompany(vocal, self.trained, self.codec, sampling)


class Pretrained(Renderer):
    """A system of another library, from `owner/name` of the hub or a folder in that library's layout.

    MissingPartError where a package is missing, or the weights are absent, gated, damaged or of another kind.
    """

    packages: ClassVar[tuple[str, ...]]  # that it needs
    files: ClassVar[tuple[str, ...]]  # of a repository that it reads, none that would have to be unpickled
    kinds: ClassVar[dict[str, tuple[str, str]]]  # configuration file → key in it, and the value wanted there

    def __init__(self, model: str, config: BaselineConfig, device: torch.device) -> None:
        if missing := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            raise MissingPartError(f"{self.name} needs {' and '.join(missing)}: {INSTALL}")
        self.config: Any = config
        folder, precision = _model_folder(model, self.files), precision_on(config, device)
        for file, (key, kind) in self.kinds.items():
            _require_kind(folder / file, key, kind)
        with quiet_libraries():
            network = self.load(folder, DTYPES[precision], device)
        name = folder.resolve().name if Path(model).expanduser().is_dir() else model
        weights = files_digest(folder, self.files)
        super().__init__(name, network, config, device, precision=precision, weights=weights)

    @abstractmethod
    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Load all parts of it, and return the network whose parameters count."""


def precision_on(config: BaselineConfig, device: torch.device) -> str:
    """The precision that `auto` stands for on a device."""
    if config.precision != "auto":
        return config.precision
    return "fp16" if device.type == "cuda" else "fp32"


def files_digest(folder: Path, patterns: Sequence[str]) -> str:
    """Twenty hexadecimal digits that stand for a model's files, and for none that lie beside them."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest({path.relative_to(folder).as_posix(): sha256(path) for path in files})


def _model_folder(model: str, patterns: Sequence[str]) -> Path:
    """A local folder, or a repository of the hub as it lies in the hub's cache."""
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


def _require_kind(file: Path, key: str, kind: str) -> None:
    """Refuse another model by what its own configuration says, before its weights are read."""
    try:
        found = read_json(file)[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"cannot be read as the configuration of a {kind} ({type(error).__name__})"
        raise MissingPartError(f"{file}: {reason}; give --model a whole repository") from error
    if found != kind:
        raise MissingPartError(f"{file}: {key} is {found!r:.80}, not {kind!r}; give another --model")


def load_network(network: Any, folder: Path, **options: Any) -> Any:
    """Load a class of network by its library's own `from_pretrained`, from safetensors alone and whole.

    The libraries make up for missing tensors with random numbers. Tensors to spare are let pass: what older
    releases saved, newer ones compute.
    """
    if not any(folder.glob("*.safetensors")):
        raise MissingPartError(f"{folder}: holds no safetensors; pickled weights (.bin, .ckpt) are not read")
    try:
        built, found = network.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:
        raise unusable(folder, error) from error
    for key, fault in (("missing_keys", "are missing"), ("mismatched_keys", "are of another shape")):
        if names := sorted(map(str, found.get(key) or ())):
            listed = f"{len(names)} tensors {fault} ({', '.join(names[:3]):.300})"
            raise MissingPartError(f"{folder}: weights of another layout: {listed}; fetch it again")
    return built


def unusable(folder: Path, error: Exception) -> MissingPartError:
    """The error to raise where a library cannot make a network of the files."""
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"
    return MissingPartError(f"{folder}: not usable ({reason}); fetch it again, or take another model")


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
