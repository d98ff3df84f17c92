"""The VAE of Stable Audio Open, alone: its diffusion model is never built and never read (paper §III-C).

Songs go through in windows whose margins cover the network's receptive field.
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

CONFIG_FILE, WEIGHTS_FILE = "model_config.json", "model.safetensors"
PREFIX = "pretransform.model."
REMEDY = f"or set codec.path to a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}, or codec.name to 'mel'"
MAX_CONFIG_BYTES = 2**20
# What reading a stranger's configuration, and building its network, may end in.
NOT_OURS = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError)
WINDOW = 272  # frames; at full size it takes about 2 GB
ENCODER_REACH = 8  # frames on either side on which a latent depends: 7.9 measured
DECODER_REACH = 10  # frames on either side on which the decoder's samples depend: 9.7 measured
MAX_BATCH = 16  # windows: about three minutes of audio, some 30 GB
PUBLISHED_INFO = CodecInfo(  # of latents that came without their weights
    name="stable-audio-open", version=PUBLISHED, sample_rate=44_100, hop=2048, channels=64
)
VARIANTS = {  # by version, the settings of the codec that encode so
    f"2 {posterior}" + ("" if precision == "fp32" else f" {precision}"): (
        {"posterior": posterior, "precision": precision}
    )
    for posterior in get_args(Posterior)
    for precision in get_args(Precision)
}


class Snake(nn.Module):
    """x + sin²(αx) / β per channel (Ziyin et al. 2020): a `SnakeBeta` in two passes over memory."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        alpha, beta = original.alpha.detach(), original.beta.detach()
        if original.alpha_logscale:
            alpha, beta = alpha.exp(), beta.exp()
        self.alpha = nn.Buffer(alpha[:, None].clone())
        self.inverse_beta = nn.Buffer((1.0 / (beta + original.no_div_by_zero))[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, C, T)."""
        return torch.addcmul(x, (x * self.alpha).sin_().square_(), self.inverse_beta)


def with_light_snakes(network: nn.Module) -> nn.Module:
    """`network` with every `SnakeBeta` replaced, in place."""
    from stable_audio_tools.models.blocks import SnakeBeta

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, SnakeBeta):
                setattr(module, name, Snake(child))
    return network


class StableAudioCodec:
    """The autoencoder of stable-audio-tools behind our two calls."""

    window, encode_reach, decode_reach = WINDOW, ENCODER_REACH, DECODER_REACH

    def __init__(
        self, autoencoder: Any, weights_sha256: str, device: torch.device, config: CodecConfig,
        turn: "threading.Lock | None" = None,
    ) -> None:  # fmt: skip
        """Move the autoencoder of stable-audio-tools to `device`; arguments are those of `load_codec`."""
        with_light_snakes(autoencoder).to(device, torch.float32).eval().requires_grad_(False)
        variant = {"posterior": config.posterior, "precision": config.precision}
        version = next(name for name, settings in VARIANTS.items() if settings == variant)
        self.info = PUBLISHED_INFO.model_copy(update={"version": version, "weights_sha256": weights_sha256})
        self._sampled = config.posterior == "sample"
        options: dict[str, Any] = {"precision": config.precision, "size": config.batch, "most": MAX_BATCH}
        self._encoder = Batcher(
            lambda audio: autoencoder.encode(audio, skip_bottleneck=True), device, turn=turn, **options
        )
        self._decoder = Batcher(autoencoder.decode, device, turn=turn, **options)

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S), clamped to [-1, 1] → (B, 64, ceil(S / 2048)), the posterior's mean or a sample of it."""
        hop = self.info.hop
        padded = pad_to_frames(audio, hop).to("cpu", torch.float32).clamp(-1.0, 1.0)
        mean, scale = _through(self._encoder, padded, self.window, self.encode_reach, hop, 1).chunk(2, dim=1)
        if self._sampled:  # as the bottleneck of stable-audio-tools draws
            noise = torch.stack([_noise_of(item, mean.shape[1:]) for item in padded])
            mean = mean + noise * (functional.softplus(scale) + 1e-4)
        return mean.to(audio.device)

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


def _noise_of(audio: Tensor, shape: torch.Size) -> Tensor:
    """Noise that follows from the audio: the same for the same stem, another for every other."""
    seed = int.from_bytes(hashlib.sha256(audio.contiguous().numpy().data).digest()[:8])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class _Layers(BaseModel, extra="allow"):
    channels: Annotated[int, Field(ge=1, le=512)]
    c_mults: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=5, max_length=5)]
    strides: tuple[Literal[2], Literal[4], Literal[4], Literal[8], Literal[8]]  # those of our windows


class _Oobleck(BaseModel, extra="forbid"):
    type: Literal["oobleck"]  # others may load what they please
    config: _Layers


class _Autoencoder(BaseModel, extra="ignore"):
    """What matters of `model_config.json`, a stranger's: the autoencoder that our windows are measured on."""

    sample_rate: Literal[44_100]
    io_channels: Literal[2]
    latent_dim: Literal[64]
    downsampling_ratio: Literal[2048]
    bottleneck: dict[Literal["type"], Literal["vae"]]
    encoder: _Oobleck
    decoder: _Oobleck
    pretransform: None = None


def load(config: CodecConfig, device: torch.device, turn: "threading.Lock | None" = None) -> StableAudioCodec:
    """The codec from `config.path`: a folder of stable-audio-tools, or `owner/name` on the hub."""
    folder, names = Path(config.path).expanduser(), (CONFIG_FILE, WEIGHTS_FILE)
    local = folder.is_dir()
    files = [folder / name if local else fetch(config.path, name, REMEDY) for name in names]
    if strange := [file for file in files if not file.is_file()]:  # a pipe would be waited for
        raise MissingPartError(f"{strange[0]}: no such file, or no regular one; fetch it again")
    architecture, autoencoder = _build(files[0])
    state = _load_weights(autoencoder, files[1])
    identity = hashlib.sha256(weights_sha256(state).encode() + json_bytes(architecture)).hexdigest()
    return StableAudioCodec(autoencoder, identity, device, config, turn)


def _build(file: Path) -> tuple[dict[str, Any], nn.Module]:
    """The autoencoder's own configuration, and the network, without memory as long as it has no weights."""
    try:
        whole = json.loads(read_bounded(file, MAX_CONFIG_BYTES))
        own = {**whole["model"]["pretransform"]["config"], "sample_rate": whole["sample_rate"]}
        checked = _Autoencoder.model_validate_json(json.dumps(own)).model_dump(exclude_none=True)
        architecture = {"sample_rate": checked.pop("sample_rate"), "model": checked}
        with quietly(), torch.device("meta"):
            from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

            return architecture, create_autoencoder_from_config(architecture)
    except NOT_OURS as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else f"{error!r:.300}"
        raise MissingPartError(f"{file}: not the autoencoder of Stable Audio Open ({fault})") from error


def _load_weights(autoencoder: nn.Module, file: Path) -> dict[str, Tensor]:
    """Give the network its tensors; the rest of the file is not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(PREFIX)]  # noqa: SIM118 - no mapping
            state = {name.removeprefix(PREFIX): opened.get_tensor(name) for name in names}
        autoencoder.load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        fault = " ".join(str(error).split())[:400]
        raise MissingPartError(f"{file}: damaged, or of another network ({fault}); fetch it again") from error
    require_finite(state, str(file))
    return state
