"""Checkpoints: what training needs to go on, and the model people share.

Both are entries (`samuel.artifacts`): safetensors plus JSON, whole or absent, digests checked on loading.
Nothing
is ever unpickled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from samuel.artifacts import (
    Artifact,
    find_artifact,
    make_artifact,
    sha256,
)
from samuel.config import DiffusionConfig, ModelConfig
from samuel.errors import CheckpointError
from samuel.model.unet import SamuelUNet
from samuel.model.windows import FRAMES
from samuel.popdb.loader import Normaliser

MODEL_FORMAT = 1


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to sample from.

    Attributes:
        network: The U-Net with its averaged weights, in eval mode.
        normaliser: The maps of the dataset it was trained on.
        diffusion: The forward process it was trained with.
        codec: Identity of the codec its latents come from.
        frames: Length of the pairs it was trained on.
        sha256: Digest of its weights.
        record: Everything else its training recorded.
    """

    network: SamuelUNet
    normaliser: Normaliser
    diffusion: DiffusionConfig
    codec: str
    frames: int
    sha256: str
    record: dict[str, Any]


def save_model(
    folder: Path, weights: dict[str, Tensor], record: dict[str, Any], files: dict[str, bytes] | None = None
) -> Artifact:
    """Write the model people share: `model.safetensors`, its record, and `files` by name."""

    def make(target: Path) -> dict[str, Any]:
        save_file(_contiguous(weights), target / "model.safetensors")
        for name, content in (files or {}).items():
            (target / name).write_bytes(content)
        return {"format": MODEL_FORMAT, **record}

    return make_artifact(folder, make)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that `save_model` wrote, by name.

    Raises:
        CheckpointError: Nothing is there, or a byte has changed.
    """
    return load_file(_whole_entry(folder).path("model.safetensors"))


def load_model(folder: Path, device: torch.device) -> TrainedModel:
    """Load what `save_model` wrote.

    Raises:
        CheckpointError: Nothing is there, a byte has changed, its record is not a model's, or the weights do
            not fit their own settings.
    """
    entry = _whole_entry(folder)
    if entry.record.get("format") != MODEL_FORMAT:
        raise CheckpointError(f"{folder}: not a model of format {MODEL_FORMAT}")
    if lacking := sorted({"model", "diffusion", "stats", "codec"} - entry.record.keys()):
        raise CheckpointError(f"{folder}: its record lacks {', '.join(lacking)}; it is no whole model")
    try:
        diffusion = DiffusionConfig.model_validate(entry.record["diffusion"])
        network = SamuelUNet(ModelConfig.model_validate(entry.record["model"]), diffusion)
    except ValidationError as error:
        raise CheckpointError(
            f"{folder}: made with settings that this version does not know: {error}"
        ) from error
    _load_strictly(network, entry.path("model.safetensors"))
    return TrainedModel(
        network=network.to(device).eval().requires_grad_(requires_grad=False),
        normaliser=Normaliser.of(entry.record["stats"]).to(device),
        diffusion=diffusion,
        codec=entry.record["codec"],
        frames=entry.record.get("frames", FRAMES),
        sha256=entry.sha256["model.safetensors"],
        record=entry.record,
    )


def save_state(
    folder: Path,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    record: dict[str, Any],
) -> Artifact:
    """Write all that training needs to go on from here."""

    def make(target: Path) -> dict[str, Any]:
        save_file(_contiguous(network.state_dict()), target / "network.safetensors")
        save_file(_contiguous(average.state_dict()), target / "average.safetensors")
        save_file(_optimiser_tensors(optimiser), target / "optimiser.safetensors")
        return record

    return make_artifact(folder, make)


def load_state(
    folder: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load what `save_state` wrote into the three objects and return its record.

    Raises:
        CheckpointError: As for `load_model`.
    """
    entry = _whole_entry(folder)
    _load_strictly(network, entry.path("network.safetensors"))
    _load_strictly(average, entry.path("average.safetensors"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(entry.path("optimiser.safetensors")).items():
        parameter, key = name.split(".")
        state.setdefault(int(parameter), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return entry.record


def _whole_entry(folder: Path) -> Artifact:
    entry = find_artifact(folder)
    if entry is None:
        raise CheckpointError(f"{folder}: no whole checkpoint here; run the flow train-and-eval to make one")
    for name, expected in entry.sha256.items():
        if sha256(entry.path(name)) != expected:
            raise CheckpointError(
                f"{entry.path(name)}: its bytes have changed; delete {folder} and train again"
            )
    return entry


def _load_strictly(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: does not fit the network it is for: {error}") from error


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": tensor for i, entries in state.items() for key, tensor in entries.items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
