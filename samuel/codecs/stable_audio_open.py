"""The VAE of Stable Audio Open, alone: its diffusion model is never built and never read (paper §III-C).

Stored is the mean of the posterior unless the settings ask for samples; either way the same audio gives the
same latents. Songs go through in windows whose margins cover the network's receptive field, so memory does
not grow with the song, and windows of several songs share a batch.
Legend: B batch, S samples at 44.1 kHz, C channels, T latent frames.
"""

import hashlib
import json
import threading
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from samuel.artifacts import json_bytes, read_bounded
from samuel.codecs.base import PUBLISHED, CodecInfo, pad_to_frames, windows_of
from samuel.config import CodecConfig, Posterior, Precision
from samuel.device import Batcher
from samuel.errors import MissingPartError, first_fault
from samuel.hub import fetch, quietly, require_finite, weights_sha256

CONFIG_FILE = "model_config.json"
WEIGHTS_FILE = "model.safetensors"
PREFIX = "pretransform.model."
REMEDY = f"or set codec.path to a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}, or codec.name to 'mel'"
MAX_CONFIG_BYTES = 2**20
WINDOW = 272
"""Frames of a window; at full size it takes about 2 GB."""
ENCODER_REACH = 8
"""Frames on either side on which a latent depends: 7.9 measured."""
DECODER_REACH = 10
"""Frames on either side on which the decoder's samples depend: 9.7 measured."""
MAX_BATCH = 16
"""Windows of a batch: about three minutes of audio, some 30 GB."""
PUBLISHED_INFO = CodecInfo(
    name="stable-audio-open", version=PUBLISHED, sample_rate=44_100, hop=2048, channels=64
)
"""Of latents that came without their weights."""


def version(posterior: str, precision: str) -> str:
    """The version of latents that are encoded so."""
    return f"2 {posterior}" if precision == "fp32" else f"2 {posterior} {precision}"


VARIANTS = {
    version(posterior, precision): {"posterior": posterior, "precision": precision}
    for posterior in get_args(Posterior)
    for precision in get_args(Precision)
}
"""By version, the settings of the codec that encode so."""


class Snake(nn.Module):
    """x + sin²(αx) / β per channel (Ziyin et al. 2020; β as in BigVGAN), for inference.

    Takes over the numbers of a `SnakeBeta` of stable-audio-tools, which computes it in five passes, each into
    new memory; on a CPU that takes a third of the encoder's time.
    """

    alpha: Tensor
    inverse_beta: Tensor

    def __init__(self, original: Any) -> None:
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


class StableAudioCodec:
    """The autoencoder of stable-audio-tools behind our two calls."""

    window = WINDOW
    encode_reach = ENCODER_REACH
    decode_reach = DECODER_REACH

    def __init__(
        self,
        autoencoder: Any,
        weights_sha256: str,
        device: torch.device,
        config: CodecConfig,
        decoding: Precision | None = None,
        turn: "threading.Lock | None" = None,
    ) -> None:
        """Move the autoencoder, as stable-audio-tools builds it, to `device`.

        `weights_sha256` is of the weights and of the network that they are in; `decoding` the precision of
        what is only listened to, by default that of the settings.
        """
        with_light_snakes(autoencoder).to(device, torch.float32).eval().requires_grad_(False)
        identity = {"version": version(config.posterior, config.precision), "weights_sha256": weights_sha256}
        self.info = PUBLISHED_INFO.model_copy(update=identity)
        self._sampled = config.posterior == "sample"
        self._encoder = Batcher(
            lambda audio: autoencoder.encode(audio, skip_bottleneck=True),
            device, precision=config.precision, size=config.batch, most=MAX_BATCH, turn=turn,
        )  # fmt: skip
        self._decoder = Batcher(
            autoencoder.decode, device, precision=decoding or config.precision, size=config.batch,
            most=MAX_BATCH, turn=turn,
        )  # fmt: skip

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S), clamped to [-1, 1] → (B, 64, ceil(S / 2048)), the posterior's mean or a sample of it."""
        hop = self.info.hop
        padded = pad_to_frames(audio, hop).to("cpu", torch.float32).clamp(-1.0, 1.0)
        mean, scale = _through(self._encoder, padded, self.window, self.encode_reach, hop, 1).chunk(2, dim=1)
        return (_sample(mean, scale, padded) if self._sampled else mean).to(audio.device)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 64, T) → (B, 2, T · 2048)."""
        whole = latents.to("cpu", torch.float32)
        decoded = _through(self._decoder, whole, self.window, self.decode_reach, 1, self.info.hop)
        return decoded.to(latents.device)

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""
        self._encoder.cancel()
        self._decoder.cancel()


def _through(network: Batcher, values: Tensor, width: int, reach: int, step_in: int, step_out: int) -> Tensor:
    """(B, C, T · step_in) → (B, C', T · step_out), window by window."""
    windows = windows_of(values.shape[-1] // step_in, width, reach)
    results = network(
        [item[:, window.start * step_in : window.stop * step_in] for item in values for _, window in windows]
    )
    kept = [
        result[:, (keep.start - window.start) * step_out : (keep.stop - window.start) * step_out]
        for result, (keep, window) in zip(results, [*windows] * len(values), strict=True)
    ]
    songs = [kept[start : start + len(windows)] for start in range(0, len(kept), len(windows))]
    return torch.stack([torch.cat(song, dim=-1) for song in songs])


def _sample(mean: Tensor, scale: Tensor, audio: Tensor) -> Tensor:
    """A draw from each posterior, as the bottleneck of stable-audio-tools draws.

    The noise follows from the audio: the same for the same stem, another for every other.
    """
    digests = [hashlib.sha256(item.contiguous().numpy().data).digest() for item in audio]
    generators = [torch.Generator().manual_seed(int.from_bytes(digest[:8])) for digest in digests]
    noise = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators])
    return mean + noise * (functional.softplus(scale) + 1e-4)


# The files, which are a stranger's.


class _Layers(BaseModel, extra="allow"):
    channels: Annotated[int, Field(ge=1, le=512)]
    c_mults: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=5, max_length=5)]
    # The windows hold for these alone.
    strides: tuple[Literal[2], Literal[4], Literal[4], Literal[8], Literal[8]]


class _Oobleck(BaseModel, extra="forbid"):
    type: Literal["oobleck"]  # others may load what they please
    config: _Layers


class _Bottleneck(BaseModel, extra="forbid"):
    type: Literal["vae"]


class _Autoencoder(BaseModel, extra="ignore"):
    """What matters of `model_config.json`: the autoencoder that our windows and margins are measured on."""

    sample_rate: Literal[44_100]
    io_channels: Literal[2]
    latent_dim: Literal[64]
    downsampling_ratio: Literal[2048]
    bottleneck: _Bottleneck
    encoder: _Oobleck
    decoder: _Oobleck
    pretransform: None = None


def load(
    config: CodecConfig,
    device: torch.device,
    decoding: Precision | None = None,
    turn: "threading.Lock | None" = None,
) -> StableAudioCodec:
    """The codec from `config.path`: a folder in the layout of stable-audio-tools, or `owner/name` on the hub.

    Raises:
        MissingPartError: A file is absent, gated or out of reach, or does not hold this autoencoder.
    """
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        files = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
        if absent := [file for file in files if not file.is_file()]:
            raise MissingPartError(f"{absent[0]}: no such file; codec.path must hold it")
    elif config.path.count("/") != 1 or config.path.startswith((".", "/", "~")):
        raise MissingPartError(
            f"codec.path {config.path}: no such folder, and no hub repository (owner/name)"
        )
    else:
        files = [fetch(config.path, name, REMEDY) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    architecture, state = _read_config(files[0]), _read_weights(files[1])
    autoencoder = _build(architecture, state, *files)
    identity = hashlib.sha256(weights_sha256(state).encode() + json_bytes(architecture)).hexdigest()
    return StableAudioCodec(autoencoder, identity, device, config, decoding, turn)


def _read_config(file: Path) -> dict[str, Any]:
    """The autoencoder's own part, in the nesting that stable-audio-tools' factory expects."""
    try:
        whole = json.loads(read_bounded(file, MAX_CONFIG_BYTES))
        own = {**whole["model"]["pretransform"]["config"], "sample_rate": whole["sample_rate"]}
        checked = _Autoencoder.model_validate_json(json.dumps(own)).model_dump(exclude_none=True)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else repr(error)
        raise MissingPartError(f"{file}: not the autoencoder of Stable Audio Open ({fault})") from error
    return {"sample_rate": checked.pop("sample_rate"), "model": checked}


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


def _build(config: dict[str, Any], state: dict[str, Tensor], file: Path, weights_file: Path) -> nn.Module:
    """The network with its weights. It is built without memory, which is theirs alone."""
    try:
        with quietly(), torch.device("meta"):
            from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

            autoencoder: nn.Module = create_autoencoder_from_config(config)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        raise MissingPartError(f"{file}: stable-audio-tools cannot build it ({error!r:.300})") from error
    try:
        autoencoder.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        complaint = " ".join(str(error).split())[:400]
        raise MissingPartError(
            f"{weights_file}: {PREFIX}* is another network: {complaint}; fetch it again"
        ) from error
    return autoencoder
