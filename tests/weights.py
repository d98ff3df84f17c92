"""Small weights, mostly random, in the layouts in which the real ones are published."""

import json
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.weights import random_autoencoder, write_autoencoder
from samuel.hub import quietly

SMALL_AUTOENCODER: dict[str, Any] = {
    "encoder_hidden_size": 8, "decoder_input_channels": 4, "decoder_channels": 4, "channel_multiples": [1] * 5
}  # fmt: skip
FAITHFUL_AUTOENCODER: dict[str, Any] = {
    "encoder_hidden_size": 64, "decoder_input_channels": 32, "decoder_channels": 1,
    "channel_multiples": [1, 1, 1, 4, 32],
}  # fmt: skip
STRIDES = [2, 4, 4, 8, 8]
PHASES = [1, 1, 1, 4, 8]
"""Of faithful weights: into so many channels each stride sorts its samples, and averages the rest."""
SHARPENING = 0.15
"""Of faithful weights: outer taps, which make up for what averaging takes from 100 to 200 Hz."""
SOURCES = ["drums", "bass", "other", "vocals"]
ONE_HOT = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
"""Each model of a bag has its say in one source alone, as in htdemucs_ft."""


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


def write_stable_audio(folder: Path, *, faithful: bool = False) -> Any:
    """A small autoencoder in the layout of Stable Audio Open; the network.

    Faithful weights reconstruct the mean of the channels below 200 Hz; else they are random.
    """
    network = random_autoencoder(**FAITHFUL_AUTOENCODER if faithful else SMALL_AUTOENCODER)
    if faithful:
        _make_faithful(network)
    write_autoencoder(folder, network)
    return network


@torch.no_grad()
def _make_faithful(network: Any) -> None:
    """Each latent is the mean of 64 samples of both channels; back by linear interpolation.

    Activations and residual units do nothing. Of the strides the first average, the last sort the samples of
    a frame into channels: 32 values to a frame of 2048.
    """
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckResidualUnit

    for name, value in network.named_parameters():
        if name.endswith("beta"):
            value.fill_(20.0)  # log β: the activation is x + sin²(αx) / β
        elif name.endswith("bias"):
            value.zero_()
    for module in network.modules():
        if isinstance(module, OobleckResidualUnit):
            _put(module.conv2, torch.zeros(1, 1, 1))
    encoder, decoder = network.encoder, network.decoder
    fine = 1
    for index, (stride, phases) in enumerate(zip(STRIDES, PHASES, strict=True)):
        _put(encoder.block[index].conv1, _polyphase(stride, phases, fine, smooth=False))
        _put(decoder.block[4 - index].conv_t1, _polyphase(stride, phases, fine, smooth=True))
        fine *= phases
    both = _passing(1, 7)
    _put(encoder.conv1, torch.cat([both, both], dim=1) / 2)
    _put(encoder.conv2, _sharpening(fine))
    encoder.conv2.bias[fine:] = -20.0  # softplus(-20) is nothing: the deviation stays 1e-4
    _put(decoder.conv1, _passing(fine, 7))
    _put(decoder.conv2, torch.cat([both, both]))


def _put(convolution: Any, corner: Tensor) -> None:
    """Store a kernel, whose further channels are zero, as direction and length: weight normalisation."""
    kernel = torch.zeros_like(convolution.weight_v)
    kernel[: corner.shape[0], : corner.shape[1]] = corner
    length = kernel.flatten(1).norm(dim=1)[:, None, None]
    convolution.weight_g.copy_(length)
    convolution.weight_v.copy_(torch.where(length > 0, kernel, 1.0))


def _polyphase(stride: int, phases: int, fine: int, *, smooth: bool) -> Tensor:
    """(phases · fine, fine, 2 · stride): box kernels for a convolution, triangles for its transpose.

    A channel stands for (phase among the coarser ones, phase among the `fine` ones).
    """
    kernel = torch.zeros(phases * fine, fine, 2 * stride)
    step = stride / phases
    for phase, within in product(range(phases), range(fine)):
        distance = (torch.arange(2 * stride) - (stride / 2 + phase * step + (step - 1) / 2)).abs()
        shape = (1 - distance / step).clamp(min=0) if smooth else (distance < step / 2).float() / step
        kernel[phase * fine + within, within] = shape
    return kernel


def _passing(channels: int, taps: int) -> Tensor:
    kernel = torch.zeros(channels, channels, taps)
    kernel[:, :, taps // 2] = torch.eye(channels)
    return kernel


def _sharpening(phases: int) -> Tensor:
    """(phases, phases, 3): three taps over the values, across the frames' borders."""
    kernel = torch.zeros(phases, phases, 3)
    for phase, offset in product(range(phases), (-1, 0, 1)):
        frame, source = divmod(phase + offset, phases)
        kernel[phase, source, 1 + frame] = -SHARPENING if offset else 1 + 2 * SHARPENING
    return kernel


def write_demucs(folder: Path, name: str = "tiny", weights: list[list[float]] | None = None) -> Path:
    """A local repository with an HTDemucs of 272 k parameters; the path of its weights.

    A bag has as many models as `weights` has rows: what each model counts in each of SOURCES.
    """
    with quietly():
        from demucs.states import save_with_checksum

    folder.mkdir(parents=True, exist_ok=True)
    packages = _tiny_demucs(len(weights or [[]]))
    for signature, package in packages.items():
        save_with_checksum({**package, "training_args": {}}, folder / f"{signature}.th")
    _write_bag(folder / f"{name}.yaml", list(packages), weights)
    return next(folder.glob("tiny0000-*.th"))


def write_demucs_hub(folder: Path, name: str = "htdemucs", weights: list[list[float]] | None = None) -> Path:
    """The same models as a repository of the hub: YAML and safetensors; the path of the first weights."""

    def fraction(value: Fraction) -> dict[str, Any]:
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}

    folder.mkdir(parents=True, exist_ok=True)
    packages = _tiny_demucs(len(weights or [[]]))
    for signature, package in packages.items():
        klass = package["klass"]
        metadata = {
            "klass": f"{klass.__module__}.{klass.__qualname__}",
            "args": json.dumps(package["args"]),
            "kwargs": json.dumps(package["kwargs"], default=fraction),
        }
        state = {key: value.contiguous() for key, value in package["state"].items()}
        save_file(state, folder / f"{signature}.safetensors", metadata)
    _write_bag(folder / f"{name}.yaml", list(packages), weights)
    return folder / "tiny0000.safetensors"


def _tiny_demucs(count: int) -> dict[str, dict[str, Any]]:
    """Packages by signature, as demucs publishes them; each model is drawn from its own seed."""
    with quietly():
        from demucs.htdemucs import HTDemucs
        from demucs.states import get_state

    kwargs = {
        "sources": SOURCES, "channels": 8, "growth": 2, "depth": 4, "nfft": 2048,
        "t_layers": 1, "t_heads": 2, "bottom_channels": 16, "segment": Fraction(2),
    }  # fmt: skip
    packages: dict[str, dict[str, Any]] = {}
    for seed in range(count):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state = get_state(HTDemucs(**kwargs), None)
        packages[f"tiny{seed:04d}"] = {"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": state}
    return packages


def _write_bag(path: Path, signatures: list[str], weights: list[list[float]] | None) -> None:
    bag = {"models": signatures, "weights": weights}
    path.write_text(
        "".join(f"{key}: {json.dumps(value)}\n" for key, value in bag.items() if value is not None)
    )


AUDIOBOX_MODEL = {
    "proj_num_layer": 1, "proj_ln": False, "proj_act_fn": "gelu", "proj_dropout": 0.0, "nth_layer": 13,
    "use_weighted_layer_sum": True, "precision": "32", "normalize_embed": True, "output_dim": 1,
}  # fmt: skip
AUDIOBOX_SCALE = {axis: {"mean": 5.0 + n, "std": 1.0} for n, axis in enumerate(["CE", "CU", "PC", "PQ"])}


def write_audiobox(path: Path) -> nn.Module:
    """A checkpoint of the full size (377 MB), for its layout has no say over the encoder's; the network."""
    with quietly(), torch.random.fork_rng():
        from audiobox_aesthetics.model.aes import AesMultiOutput

        torch.manual_seed(0)
        network = AesMultiOutput(**AUDIOBOX_MODEL, target_transform=AUDIOBOX_SCALE).eval()
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "model_cfg": AUDIOBOX_MODEL, "target_transform": AUDIOBOX_SCALE}, path)
    return network
