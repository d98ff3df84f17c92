"""Models and checkpoints of a training: safetensors and JSON in artifacts, digests checked, never unpickled.

A model folder may come from a stranger: its record is held to a strict schema, and its weights to the shapes
that follow from the record, before memory is taken for either.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor

from samuel.artifacts import Artifact, find_artifact, make_artifact, sha256
from samuel.codecs import CodecInfo
from samuel.config import MOST_FRAMES, DiffusionConfig, ModelConfig
from samuel.errors import CheckpointError, InputError, first_fault
from samuel.model.unet import SamuelUNet
from samuel.popdb.dataset import MOST_PAIR_VALUES, Stats
from samuel.popdb.loader import Normaliser
from samuel.reading import open_tensors, read_tensors

MODEL_FORMAT = 2
WEIGHTS = "model.safetensors"
MAX_MODEL_BYTES = 2**28  # of which it takes as much again when it is read; ours has 60 MB


class FitProgress(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """Where a fit ended."""

    step: Annotated[int, Field(ge=0)]
    best_step: Annotated[int, Field(ge=0)]
    best_loss: float
    without_gain: Annotated[int, Field(ge=0)]


class ModelRecord(BaseModel):
    """What a model folder says of itself; all that `load_model` needs, and where the model came from."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    format: Literal[2]
    model: ModelConfig
    diffusion: DiffusionConfig
    stats: Stats
    codec: CodecInfo
    frames: Annotated[int, Field(ge=8, le=MOST_FRAMES, multiple_of=8)]
    training: dict[str, Any] = {}
    dataset: str = ""
    held_out: bool = False
    progress: FitProgress | None = None

    @model_validator(mode="after")
    def _channels_agree(self) -> "ModelRecord":
        streams = (self.stats.vocal, self.stats.accompaniment)
        lengths = {len(values) for stream in streams for values in (stream.mean, stream.std)}
        if {self.codec.channels, self.model.latent_channels, *lengths} != {self.codec.channels}:
            raise ValueError(f"network and statistics are not of the codec's {self.codec.channels} channels")
        if self.codec.channels * self.frames > MOST_PAIR_VALUES:
            raise ValueError(f"{self.frames} frames of {self.codec.channels} channels: too many")
        return self


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to sample from."""

    network: SamuelUNet  # with its averaged weights, in eval mode
    normaliser: Normaliser  # of the dataset it was trained on
    diffusion: DiffusionConfig
    codec: CodecInfo
    frames: int  # of the pairs it was trained on
    sha256: str  # of its weights


def save_model(
    folder: Path, weights: dict[str, Tensor], record: dict[str, Any], files: dict[str, bytes] | None = None
) -> Artifact:
    """Write the model people share: its weights, what `ModelRecord` holds but the format, and other files."""
    checked = ModelRecord.model_validate_json(json.dumps({"format": MODEL_FORMAT, **record}))

    def make(target: Path) -> dict[str, Any]:
        _save(weights, target / WEIGHTS)
        for name, content in (files or {}).items():
            (target / name).write_bytes(content)
        return checked.model_dump(mode="json")

    return make_artifact(folder, make)


def load_model(folder: Path, device: torch.device) -> TrainedModel:
    """Load what `save_model` wrote; a CheckpointError where a byte has changed, or it is no whole model."""
    artifact = _whole_artifact(folder, MAX_MODEL_BYTES)
    record, path = _record_of(artifact), artifact.path(WEIGHTS)
    try:
        with torch.device("meta"):  # shapes alone
            wanted = SamuelUNet(record.model, record.diffusion).state_dict()
        with open_tensors(path) as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: (part.get_shape(), part.get_dtype()) for name, part in found.items()}
            if shapes != {name: (list(tensor.shape), "F32") for name, tensor in wanted.items()}:
                raise CheckpointError(f"{path}: does not fit the network that the model's record describes")
            network = SamuelUNet(record.model, record.diffusion)
            network.load_state_dict({name: file.get_tensor(name) for name in found})
    except (RuntimeError, ValueError, OSError, InputError) as error:
        raise CheckpointError(
            f"{path}: does not fit the network that the model's record describes"
        ) from error
    network, normaliser = network.to(device).eval(), Normaliser.of(record.stats.model_dump()).to(device)
    about = (record.diffusion, record.codec, record.frames, artifact.sha256[WEIGHTS])
    return TrainedModel(network.requires_grad_(requires_grad=False), normaliser, *about)


def find_trained(folder: Path) -> Artifact | None:
    """The model that a training left at `folder`, or None; a CheckpointError where its record is another."""
    if (artifact := find_artifact(folder)) and _record_of(artifact).progress is None:
        raise CheckpointError(f"{folder}: no model of a training; delete it, and train again")
    return artifact


def _record_of(artifact: Artifact) -> ModelRecord:
    if artifact.record.get("format") == 1:
        older = "of an older version of SAMUeL (model format 1)"
        raise CheckpointError(f"{artifact.folder}: {older}; train it again")
    try:
        return ModelRecord.model_validate_json(json.dumps(artifact.record))
    except ValidationError as error:
        fault = first_fault(error)
        raise CheckpointError(f"{artifact.folder}: no model of format {MODEL_FORMAT} ({fault})") from error


def save_tensors(folder: Path, tensors: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> Artifact:
    """Write groups of named tensors, a file each."""

    def make(target: Path) -> dict[str, Any]:
        for name, group in tensors.items():
            _save(group, target / f"{name}.safetensors")
        return record

    return make_artifact(folder, make)


def load_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Load what `save_tensors` wrote, on the CPU; a CheckpointError where it is absent or changed."""
    artifact = _whole_artifact(folder)
    return {Path(name).stem: read_tensors(artifact.path(name)) for name in artifact.sha256}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def _whole_artifact(folder: Path, max_bytes: float = float("inf")) -> Artifact:
    artifact = find_artifact(folder)
    if artifact is None or artifact.released:
        raise CheckpointError(f"{folder}: no whole checkpoint here; run the flow train-and-eval to make one")
    if (size := sum(artifact.sizes.values())) > max_bytes:
        raise CheckpointError(f"{folder}: {size / 1e9:.1f} GB, a model has {max_bytes / 1e9:.1f} at most")
    for name, expected in artifact.sha256.items():
        if sha256(path := artifact.path(name)) != expected:
            raise CheckpointError(f"{path}: its bytes have changed; delete {folder} and train again")
    return artifact
