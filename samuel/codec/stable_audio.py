"""The VAE of Stable Audio Open, alone: its diffusion model is never built and never read (paper §III-C).

Stored is the mean of the posterior, so that encoding the same audio twice gives the same latents. Songs go
through in windows whose margins cover the network's receptive field, so memory does not grow with the song.
Legend: B batch, S samples at 44.1 kHz, T latent frames.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samuel.audio import CHANNELS, SAMPLE_RATE
from samuel.codec.base import HOP, LATENT_CHANNELS, frame_count, pad_to_frames
from samuel.errors import MissingPartError
from samuel.files import digest, read_json
from samuel.weights import fetch, quietly, weights_digest

CONFIG_FILE = "model_config.json"
WEIGHTS_FILE = "model.safetensors"
PREFIX = "pretransform.model."
WINDOW = 128
"""Frames of a window; with its margins about 1 GB at full size."""
MARGIN = 16
"""Frames on either side of a window. Measured reach: encoder 8 frames, decoder 9.7."""
REMEDY = f"or set codec.path to a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}, or codec.name to 'mel'"


class StableAudioCodec:
    """The autoencoder of stable-audio-tools behind our two calls; float32, no gradients."""

    def __init__(self, autoencoder: nn.Module, identity: str, device: torch.device) -> None:
        self.identity = identity
        self._autoencoder: Any = autoencoder.to(device, torch.float32).eval().requires_grad_(False)
        self._device = device

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S), clamped to [-1, 1] → posterior mean (B, 64, ceil(S / 2048)), unscaled."""
        padded = pad_to_frames(audio)
        means: list[Tensor] = []
        for core, window in _windows(frame_count(audio.shape[-1])):
            samples = padded[..., window.start * HOP : window.stop * HOP].to(self._device, torch.float32)
            posterior = self._autoencoder.encode(samples.clamp(-1.0, 1.0), skip_bottleneck=True)
            mean, _scale = posterior.chunk(2, dim=1)
            means.append(_cut(mean, core, window, 1).to(audio.device))
        return torch.cat(means, dim=-1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, 64, T) → (B, 2, T · 2048)."""
        pieces: list[Tensor] = []
        for core, window in _windows(latents.shape[-1]):
            part = latents[..., window.start : window.stop].to(self._device, torch.float32)
            pieces.append(_cut(self._autoencoder.decode(part), core, window, HOP).to(latents.device))
        return torch.cat(pieces, dim=-1)


def load_stable_audio(path: str, device: torch.device) -> StableAudioCodec:
    """The codec from a local folder or a hub repository in the layout of stable-audio-tools.

    Args:
        path: A folder with `model_config.json` and `model.safetensors`, or `owner/name` on the hub.
        device: Where it computes.

    Raises:
        MissingPartError: A file is absent, gated or out of reach, or does not hold this autoencoder.
    """
    config_file, weights_file = _files(path)
    config = _read_config(config_file)
    state = _read_weights(weights_file)
    autoencoder = _build(config, config_file)
    _load(autoencoder, state, weights_file)
    identity = f"stable-audio-open/1 mean weights={weights_digest(state)} config={digest(config)}"
    return StableAudioCodec(autoencoder, identity, device)


def _windows(frames: int) -> Iterator[tuple[range, range]]:
    """Successive stretches of frames to keep, each with the wider stretch to compute it from."""
    for start in range(0, frames, WINDOW):
        stop = min(start + WINDOW, frames)
        yield range(start, stop), range(max(start - MARGIN, 0), min(stop + MARGIN, frames))


def _cut(values: Tensor, core: range, window: range, step: int) -> Tensor:
    """What belongs to `core` of values computed over `window`, `step` values to a frame."""
    first = (core.start - window.start) * step
    return values[..., first : first + len(core) * step]


def _files(path: str) -> tuple[Path, Path]:
    folder = Path(path).expanduser()
    if folder.is_dir():
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise MissingPartError(f"{folder / name}: no such file; codec.path must hold it")
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise MissingPartError(f"codec.path {path}: no such folder, and not a hub repository (owner/name)")
    return fetch(path, CONFIG_FILE, REMEDY), fetch(path, WEIGHTS_FILE, REMEDY)


def _read_config(file: Path) -> dict[str, Any]:
    """The autoencoder's own part, in the nesting that stable-audio-tools' factory expects."""
    try:
        whole = read_json(file)
        inner = whole["model"]["pretransform"]["config"]
        found = (
            whole["sample_rate"], inner["io_channels"], inner["latent_dim"], inner["downsampling_ratio"],
            inner["bottleneck"]["type"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise MissingPartError(
            f"{file}: not a model configuration of stable-audio-tools with an autoencoder ({error!r})"
        ) from error
    wanted = (SAMPLE_RATE, CHANNELS, LATENT_CHANNELS, HOP, "vae")
    if found != wanted:
        raise MissingPartError(
            f"{file}: another autoencoder: (rate, channels, latent channels, hop, bottleneck) are {found},"
            f" expected {wanted}"
        )
    return {"sample_rate": whole["sample_rate"], "model": inner}


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Only the autoencoder's tensors; the rest of the file is not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(PREFIX)]  # noqa: SIM118 - no mapping
            return {name.removeprefix(PREFIX): opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise MissingPartError(f"{file}: not a whole safetensors file ({error}); fetch it again") from error


def _build(config: dict[str, Any], file: Path) -> nn.Module:
    try:
        with quietly():
            from stable_audio_tools.models.autoencoders import (
                create_autoencoder_from_config,
            )

            return create_autoencoder_from_config(config)
    except (KeyError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise MissingPartError(f"{file}: stable-audio-tools cannot build it ({error!r})") from error


def _load(autoencoder: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        autoencoder.load_state_dict(state, strict=True)
    except RuntimeError as error:
        complaints = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(complaints) - 2} more complaints)" if len(complaints) > 2 else ""
        raise MissingPartError(
            f"{file}: {PREFIX}* is another network: {' '.join(complaints[:2])[:400]}{more}; fetch it again"
        ) from error
