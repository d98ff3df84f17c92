"""The VAE of Stable Audio Open, alone: its diffusion model is never built and never read (paper §III-C).

Songs go through in windows whose margins cover the network's receptive field.
Legend: B batch, S samples at 44.1 kHz, C channels, T latent frames.
"""

import hashlib
import threading
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional

from samuel.artifacts import json_bytes
from samuel.codecs.base import PUBLISHED, CodecInfo, pad_to_frames, windows_of
from samuel.config import CodecConfig, Posterior, Precision
from samuel.device import Batcher
from samuel.errors import InputError, MissingPartError, first_fault
from samuel.hub import fetch, quietly, require_finite, weights_sha256
from samuel.reading import read_bounded, read_tensors

FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")  # of a repository that diffusers reads
REMEDY = f"or set codec.path to a folder that holds {FILES[0]} and {FILES[1]}, or codec.name to 'mel'"
MAX_CONFIG_BYTES = 2**20
WINDOW = 272  # frames; at full size it takes about 2 GB
ENCODER_REACH = 8  # frames on either side on which a latent depends: 7.9 measured
DECODER_REACH = 10  # frames on either side on which the decoder's samples depend: 9.7 measured
MAX_BATCH = 16  # windows: about three minutes of audio, some 30 GB
PUBLISHED_INFO = CodecInfo(  # of latents that came without their weights
    name="stable-audio-open", version=PUBLISHED, sample_rate=44_100, hop=2048, channels=64
)
VARIANTS = {  # by version, the settings of the codec that encode so
    f"3 {posterior}" + ("" if precision == "fp32" else f" {precision}"): (
        {"posterior": posterior, "precision": precision}
    )
    for posterior in get_args(Posterior)
    for precision in get_args(Precision)
}


class Snake(nn.Module):
    """x + sin²(αx) / β per channel (Ziyin et al. 2020): diffusers' `Snake1d` in two passes over memory."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        alpha, beta = original.alpha.detach(), original.beta.detach()
        if original.logscale:
            alpha, beta = alpha.exp(), beta.exp()
        self.alpha = nn.Buffer(alpha.clone())
        self.inverse_beta = nn.Buffer((beta + 1e-9).reciprocal())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, C, T)."""
        return torch.addcmul(x, (x * self.alpha).sin_().square_(), self.inverse_beta)


def with_light_snakes(network: nn.Module) -> nn.Module:
    """`network` with every `Snake1d` replaced, in place."""
    from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, Snake1d):
                setattr(module, name, Snake(child))
    return network


class StableAudioCodec:
    """The `AutoencoderOobleck` of diffusers behind our two calls."""

    window, encode_reach, decode_reach = WINDOW, ENCODER_REACH, DECODER_REACH

    def __init__(
        self, autoencoder: Any, weights_sha256: str, device: torch.device, config: CodecConfig,
        turn: "threading.Lock | None" = None,
    ) -> None:  # fmt: skip
        """Move the autoencoder to `device`; arguments are those of `load_codec`."""
        with_light_snakes(autoencoder).to(device).eval().requires_grad_(False)
        variant = {"posterior": config.posterior, "precision": config.precision}
        version = next(name for name, settings in VARIANTS.items() if settings == variant)
        identity = {"version": version, "weights_sha256": weights_sha256}
        channels = autoencoder.config.decoder_input_channels
        self.info = PUBLISHED_INFO.model_copy(update=identity | {"channels": channels})
        self._sampled = config.posterior == "sample"
        options: dict[str, Any] = {"precision": config.precision, "size": config.batch, "most": MAX_BATCH}
        self._encoder = Batcher(autoencoder.encoder, device, turn=turn, **options)
        self._decoder = Batcher(autoencoder.decoder, device, turn=turn, **options)

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S), clamped to [-1, 1] → (B, C, ceil(S / 2048)), the posterior's mean or a sample of it."""
        hop = self.info.hop
        padded = pad_to_frames(audio, hop).to("cpu", torch.float32).clamp(-1.0, 1.0)
        mean, scale = _through(self._encoder, padded, self.window, self.encode_reach, hop, 1).chunk(2, dim=1)
        if self._sampled:  # as the posterior of diffusers draws
            noise = torch.stack([_noise_of(item, mean.shape[1:]) for item in padded])
            mean = mean + noise * (functional.softplus(scale) + 1e-4)
        return mean.to(audio.device)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T) → (B, 2, T · 2048)."""
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


Width = Annotated[int, Field(ge=1, le=512)]


class _Oobleck(BaseModel, extra="ignore"):
    """What matters of `config.json`, a stranger's: an autoencoder of the strides that our windows are for."""

    sampling_rate: Literal[44_100]
    audio_channels: Literal[2]
    downsampling_ratios: tuple[Literal[2], Literal[4], Literal[4], Literal[8], Literal[8]]
    channel_multiples: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=5, max_length=5)]
    encoder_hidden_size: Width
    decoder_channels: Width
    decoder_input_channels: Width

    @model_validator(mode="after")
    def _fits(self) -> "_Oobleck":
        if self.encoder_hidden_size != 2 * self.decoder_input_channels:
            raise ValueError("the encoder must give a mean and a scale for each of the decoder's channels")
        return self


def load(config: CodecConfig, device: torch.device, turn: "threading.Lock | None" = None) -> StableAudioCodec:
    """The codec from `config.path`: a folder with `FILES`, or `owner/name` on the hub, which gives those."""
    folder = Path(config.path).expanduser()
    local = folder.is_dir()
    files = [folder / name if local else fetch(config.path, name, REMEDY) for name in FILES]
    if strange := [file for file in files if not file.is_file()]:  # a pipe would be waited for
        raise MissingPartError(f"{strange[0]}: no such file, or no regular one; fetch it again")
    architecture, autoencoder = _build(files[0])
    state = _load_weights(autoencoder, files[1])
    identity = hashlib.sha256(weights_sha256(state).encode() + json_bytes(architecture)).hexdigest()
    return StableAudioCodec(autoencoder, identity, device, config, turn)


def _build(file: Path) -> tuple[dict[str, Any], nn.Module]:
    """The autoencoder's own configuration, and the network, without memory as long as it has no weights."""
    try:
        checked = _Oobleck.model_validate_json(read_bounded(file.resolve(), MAX_CONFIG_BYTES)).model_dump()
    except (InputError, OSError, ValueError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else f"{error!r:.300}"
        raise MissingPartError(f"{file}: not the autoencoder of Stable Audio Open ({fault})") from error
    with quietly(), torch.device("meta"):
        from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

        return checked, AutoencoderOobleck(**checked)


def _load_weights(autoencoder: nn.Module, file: Path) -> dict[str, Tensor]:
    """Give the network its tensors, (name → tensor); a MissingPartError where they are others."""
    try:
        read = read_tensors(file.resolve())  # the hub's cache is of links
        state = {name: tensor.float() for name, tensor in read.items()}
        autoencoder.load_state_dict(state, strict=True, assign=True)
    except (InputError, OSError, RuntimeError) as error:
        fault = " ".join(str(error).split())[:400]
        raise MissingPartError(f"{file}: damaged, or of another network ({fault}); fetch it again") from error
    require_finite(state, str(file))
    return state
