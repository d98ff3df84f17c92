"""The VAE of Stable Audio Open, alone: its diffusion model is never built and never read (paper §III-C).

Stored is the mean of the posterior unless the settings ask for samples; either way the same audio gives the
same latents. Songs go through in windows whose margins cover the network's receptive field, so memory does
not grow with the song, and windows of several songs share a batch.
Legend: B batch, S samples at 44.1 kHz, T latent frames.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from samuel.artifacts import digest, read_json
from samuel.audio import CHANNELS, SAMPLE_RATE
from samuel.codecs.base import (
    HOP,
    LATENT_CHANNELS,
    REACH,
    frame_count,
    pad_to_frames,
    windows_of,
)
from samuel.config import CodecConfig, Precision
from samuel.device import Batcher
from samuel.errors import MissingPartError
from samuel.hub import (
    fetch,
    quietly,
    require_finite,
    weights_digest,
)

# The activation of the VAE, with a third of the memory traffic. Legend: B batch, C channels, T samples.


class Snake(nn.Module):
    """x + sin²(αx) / β per channel (Ziyin et al. 2020; β as in BigVGAN), for inference.

    stable-audio-tools computes it in five passes, each into new memory; on a CPU that takes a third of the
    encoder's time.
    """

    alpha: Tensor
    inverse_beta: Tensor

    def __init__(self, original: Any) -> None:
        """Take over the numbers of a `SnakeBeta` of stable-audio-tools."""
        super().__init__()
        alpha, beta = original.alpha.detach(), original.beta.detach()
        if original.alpha_logscale:
            alpha, beta = alpha.exp(), beta.exp()
        self.register_buffer("alpha", alpha[:, None].clone())
        self.register_buffer("inverse_beta", (1.0 / (beta + original.no_div_by_zero))[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, C, T)."""
        return torch.addcmul(x, (x * self.alpha).sin_().square_(), self.inverse_beta)


def with_light_snakes(network: nn.Module) -> nn.Module:
    """`network` with every `SnakeBeta` replaced, in place."""
    from stable_audio_tools.models.blocks import SnakeBeta

    for name, child in network.named_children():
        if isinstance(child, SnakeBeta):
            setattr(network, name, Snake(child))
        else:
            with_light_snakes(child)
    return network


CONFIG_FILE = "model_config.json"
WEIGHTS_FILE = "model.safetensors"
PREFIX = "pretransform.model."
WINDOW = 272
"""Frames of a window; at full size it takes about 2 GB."""
STRIDES = [2, 4, 4, 8, 8]
DECODER_REACH = 10
"""Frames on either side on which the decoder's samples depend: 9.7 measured. The encoder's reach is 7.9."""
MOST = 16
"""Windows of a batch: about three minutes of audio, some 30 GB."""
REMEDY = f"or set codec.path to a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}, or codec.name to 'mel'"


class StableAudioCodec:
    """The autoencoder of stable-audio-tools behind our two calls."""

    window = WINDOW
    decode_reach = DECODER_REACH

    def __init__(
        self,
        autoencoder: Any,
        identity: str,
        device: torch.device,
        config: CodecConfig,
        decoding: Precision | None = None,
    ) -> None:
        """Move the autoencoder to `device`.

        Args:
            autoencoder: As stable-audio-tools builds it.
            identity: What stands for its weights.
            device: Where it computes.
            config: posterior, precision and batch.
            decoding: Precision of what is only listened to; none: that of the settings.
        """
        with_light_snakes(autoencoder).to(device, torch.float32).eval().requires_grad_(False)
        rounded = "" if config.precision == "fp32" else f" {config.precision}"
        self.identity = f"stable-audio-open/2 {config.posterior}{rounded} {identity}"
        self._sampled = config.posterior == "sample"
        self._encoder = Batcher(
            lambda audio: autoencoder.encode(audio, skip_bottleneck=True),
            device, precision=config.precision, size=config.batch, most=MOST,
        )  # fmt: skip
        self._decoder = Batcher(
            autoencoder.decode, device,
            precision=decoding or config.precision, size=config.batch, most=MOST, fill=False,
        )  # fmt: skip

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S), clamped to [-1, 1] → (B, 64, ceil(S / 2048)), the posterior's mean or a sample of it."""
        padded = pad_to_frames(audio).to("cpu", torch.float32).clamp(-1.0, 1.0)
        windows = windows_of(frame_count(audio.shape[-1]), self.window, REACH)
        posterior = _through(self._encoder, padded, windows, HOP, 1)
        mean, scale = posterior.chunk(2, dim=1)
        latents = _sample(mean, scale, padded) if self._sampled else mean
        return latents.to(audio.device)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 64, T) → (B, 2, T · 2048)."""
        windows = windows_of(latents.shape[-1], self.window, self.decode_reach)
        whole = latents.to("cpu", torch.float32)
        return _through(self._decoder, whole, windows, 1, HOP).to(latents.device)

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""
        self._encoder.cancel()
        self._decoder.cancel()


def load_stable_audio(
    config: CodecConfig, device: torch.device, decoding: Precision | None = None
) -> StableAudioCodec:
    """The codec from a local folder or a hub repository in the layout of stable-audio-tools.

    Args:
        config: path: a folder with `model_config.json` and `model.safetensors`, or `owner/name` on the hub.
        device: Where it computes.
        decoding: Precision of the decoder; none: that of the settings.

    Raises:
        MissingPartError: A file is absent, gated or out of reach, or does not hold this autoencoder.
    """
    config_file, weights_file = _files(config.path)
    architecture = _read_config(config_file)
    state = _read_weights(weights_file)
    autoencoder = _build(architecture, config_file)
    _load(autoencoder, state, weights_file)
    identity = f"weights={weights_digest(state)} config={digest(architecture)}"
    return StableAudioCodec(autoencoder, identity, device, config, decoding)


def _through(
    network: Batcher, values: Tensor, windows: Sequence[tuple[range, range]], step_in: int, step_out: int
) -> Tensor:
    """(B, C, T · step_in) → (B, C', T · step_out), window by window."""
    pieces = [
        item[:, window.start * step_in : window.stop * step_in] for item in values for _, window in windows
    ]
    results = network(pieces)
    count = len(windows)
    songs = [results[start : start + count] for start in range(0, len(results), count)]
    return torch.stack([torch.cat(_kept(song, windows, step_out), dim=-1) for song in songs])


def _kept(results: Sequence[Tensor], windows: Sequence[tuple[range, range]], step: int) -> list[Tensor]:
    return [
        result[:, (keep.start - window.start) * step : (keep.stop - window.start) * step]
        for result, (keep, window) in zip(results, windows, strict=True)
    ]


def _sample(mean: Tensor, scale: Tensor, audio: Tensor) -> Tensor:
    """A draw from each posterior, as the bottleneck of stable-audio-tools draws.

    The noise follows from the audio: the same for the same stem, another for every other.
    """
    noise = [
        torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(_seed(item))) for item in audio
    ]
    return mean + torch.stack(noise) * (functional.softplus(scale) + 1e-4)


def _seed(audio: Tensor) -> int:
    return int.from_bytes(hashlib.sha256(audio.contiguous().numpy().data).digest()[:8])


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
            inner["bottleneck"]["type"], inner.get("pretransform"),
            *((inner[part]["type"], inner[part]["config"]["strides"]) for part in ("encoder", "decoder")),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingPartError(
            f"{file}: not a model configuration of stable-audio-tools with an autoencoder ({error!r})"
        ) from error
    # The windows hold for these strides alone, and other types of network may load what they please.
    network = ("oobleck", STRIDES)
    wanted = (SAMPLE_RATE, CHANNELS, LATENT_CHANNELS, HOP, "vae", None, network, network)
    if found != wanted:
        raise MissingPartError(
            f"{file}: another autoencoder: (rate, channels, latent channels, hop, bottleneck, pretransform,"
            f" encoder, decoder) are {found!s:.400}, expected {wanted}"
        )
    return {"sample_rate": whole["sample_rate"], "model": inner}


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Only the autoencoder's tensors; the rest of the file is not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(PREFIX)]  # noqa: SIM118 - no mapping
            state = {name.removeprefix(PREFIX): opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise MissingPartError(f"{file}: not a whole safetensors file ({error}); fetch it again") from error
    require_finite(state, str(file))
    return state


def _build(config: dict[str, Any], file: Path) -> nn.Module:
    try:
        with quietly():
            from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

            return create_autoencoder_from_config(config)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
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
