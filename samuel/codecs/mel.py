"""Log-mel latents: an embedded stand-in for a learned codec, with its shapes and no weights.

Mono: both channels carry the mean. Back by pseudo-inverse and Griffin-Lim, which here is for frames that
overlap by half: torchaudio's takes four times as long. Legend: B batch, S samples, T frames, H hop.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from samuel.audio import SAMPLE_RATE
from samuel.codecs.base import CodecInfo, pad_to_frames
from samuel.config import CodecConfig

HOP, BANDS = 2048, 64
WINDOW = 256  # frames: a stretch of four windows takes 80 MB to decode; longer ones are no faster
ROUNDS, MOMENTUM = 32, 0.9  # of Griffin-Lim; 0.99 and 1.3 leave larger errors after eight rounds and more
REFINEMENTS = 20  # after the pseudo-inverse; they halve the log-mel error of the round trip
FLOOR = 1e-3  # least mel magnitude, about 89 dB under a full-scale tone
CEILING = 8.0  # of its logarithm, far above any audio: keeps a model's stray latents finite
BLOCK = 128  # frames at a time, so that what lies between two steps stays in the processor's cache
TINY = 1e-32  # least squared magnitude whose phase is believed


def load(config: CodecConfig, device: torch.device, *_: object) -> "MelCodec":
    """The codec on `device`; it has one precision, and takes little memory."""
    return MelCodec(device)


def griffin_lim(magnitude: Tensor, window: Tensor, rounds: int, momentum: float) -> Tensor:
    """Samples (B, T + 1, H) whose short-time spectrum has nearly the magnitudes (B, T, H + 1).

    Frame t covers the hops t and t + 1, by a window (2 H); the first phases are zero. Two windows of one song
    agree wherever `rounds` + 1 frames on either side are the same. Source: Perraudin, Balazs and Søndergaard,
    "A fast Griffin-Lim algorithm" (2013), α = `momentum`; at 0, that of Griffin and Lim (1984).
    """
    hop, targets = len(window) // 2, magnitude.split(BLOCK, dim=1)
    starts = range(0, magnitude.shape[1], BLOCK)
    synthesis = window / window.square().view(2, hop).sum(0).repeat(2)
    previous = torch.zeros(magnitude.shape, dtype=torch.complex64, device=magnitude.device)
    signal = magnitude.new_zeros(magnitude.shape[0], magnitude.shape[1] + 1, hop)
    for start, target in zip(starts, targets, strict=True):
        _overlap_add(signal, start, target.to(torch.complex64), synthesis)
    for _ in range(rounds):
        heard, signal = signal, torch.zeros_like(signal)
        for start, target, last in zip(starts, targets, previous.split(BLOCK, dim=1), strict=True):
            samples = heard[:, start : start + target.shape[1] + 1].flatten(1)
            rebuilt = torch.fft.rfft(samples.unfold(-1, 2 * hop, hop) * window)
            # Equation 2, c + α (c − previous c), divided by 1 + α: its phase is all that counts.
            spectrum = torch.sub(rebuilt, last, alpha=momentum / (1 + momentum))
            last.copy_(rebuilt)
            squares = torch.view_as_real(spectrum).square()
            spectrum *= (squares[..., 0] + squares[..., 1]).add_(TINY).rsqrt_().mul_(target)
            _overlap_add(signal, start, spectrum, synthesis)
    return signal


def _overlap_add(signal: Tensor, start: int, spectrum: Tensor, synthesis: Tensor) -> None:
    """Add to `signal` (B, T + 1, H) the frames of a spectrum (B, ·, H + 1) from `start` on."""
    first, second = torch.fft.irfft(spectrum, n=len(synthesis)).mul_(synthesis).chunk(2, dim=-1)
    stop = start + spectrum.shape[1]
    signal[:, start:stop] += first
    signal[:, start + 1 : stop + 1] += second


def mel_info(sample_rate: int = SAMPLE_RATE, hop: int = HOP, bands: int = BANDS) -> CodecInfo:
    """A log-mel codec's description: its rate in Hz, samples of a frame, and channels."""
    version = f"1 n_fft={2 * hop} floor={FLOOR:g}"
    return CodecInfo(name="mel", version=version, sample_rate=sample_rate, hop=hop, channels=bands)


class MelCodec:
    """Slaney mel bands, natural logarithm of the magnitude; a window has two hops, centred on its frame."""

    info = mel_info()
    window = WINDOW
    encode_reach = 1
    decode_reach = ROUNDS + 1

    def __init__(self, device: torch.device, info: CodecInfo = info) -> None:
        self.info = info
        hop, rate, kind = info.hop, info.sample_rate, "slaney"
        filters = melscale_fbanks(hop + 1, 0.0, rate / 2, info.channels, rate, norm=kind, mel_scale=kind)
        self._bands = filters.T.contiguous().to(device)
        self._inverse = torch.linalg.pinv(filters.T).to(device)
        self._window = torch.hann_window(2 * hop, device=device)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S) → (B, C, ceil(S / hop)) log-mel of the mono mean."""
        hop = self.info.hop
        mono = pad_to_frames(audio.mean(dim=1).to(self._window.device, torch.float32), hop)
        padded = functional.pad(mono, (hop // 2, hop // 2))
        spectrum = torch.stft(padded, 2 * hop, hop, window=self._window, center=False, return_complex=True)
        return (self._bands @ spectrum.abs()).clamp(min=FLOOR).log().to(audio.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T) → (B, 2, T · hop); the same latents give the same samples."""
        logarithms = latents.to(self._window.device, torch.float32).clamp(max=CEILING)
        mel = (logarithms.exp() - FLOOR).clamp(min=0.0)
        # A frame's own samples are the middle of its window: with one more at each end, two cover each.
        mel = functional.pad(mel, (1, 1), mode="replicate")
        magnitude = torch.cat([self._magnitude(part) for part in mel.split(BLOCK, dim=-1)], dim=1)
        mono = griffin_lim(magnitude, self._window, ROUNDS, MOMENTUM).flatten(1)
        outside = self.info.hop * 3 // 2
        return mono[:, None, outside:-outside].expand(-1, 2, -1).contiguous().to(latents.device)

    def cancel(self) -> None:
        """Nobody waits for anybody here."""

    def _magnitude(self, mel: Tensor) -> Tensor:
        """(B, C, T) → (B, T, hop + 1) by non-negative least squares in steps (Lee and Seung, 2000)."""
        magnitude = (self._inverse @ mel).clamp(min=1e-8)
        spread = self._bands.T @ mel
        for _ in range(REFINEMENTS):
            magnitude = magnitude * spread / (self._bands.T @ (self._bands @ magnitude) + 1e-9)
        return magnitude.mT.contiguous()
