"""Log-mel latents: an embedded stand-in for a learned codec, with the same shapes and no weights.

Mono: both channels carry the mean, so the stereo image is lost. Legend: B batch, S samples, T frames.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import griffinlim, melscale_fbanks

from samuel.audio import SAMPLE_RATE
from samuel.codec.base import HOP, LATENT_CHANNELS, pad_to_frames

N_FFT = 4096
ROUNDS = 32
"""Of Griffin-Lim."""
REFINEMENTS = 20
"""Multiplicative steps after the pseudo-inverse; they halve the log-mel error of the round trip."""
FLOOR = 1e-3
"""Least mel magnitude, about 89 dB under a full-scale tone: keeps the logarithm of silence finite."""
CEILING = 8.0
"""Far above any audio in [-1, 1]: keeps the exponential of a model's stray latents finite."""
MARGIN = (N_FFT - HOP) // 2
"""Samples that a window reaches beyond its frame on either side, so that it is centred on the frame."""


class MelCodec:
    """64 Slaney mel bands, natural logarithm of the magnitude; back by pseudo-inverse and Griffin-Lim."""

    def __init__(self, device: torch.device) -> None:
        self.identity = f"mel/1 bands={LATENT_CHANNELS} n_fft={N_FFT} hop={HOP} floor={FLOOR:g}"
        bands = melscale_fbanks(
            N_FFT // 2 + 1,
            0.0,
            SAMPLE_RATE / 2,
            LATENT_CHANNELS,
            SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self._bands = bands.T.contiguous().to(device)
        self._inverse = torch.linalg.pinv(bands.T).to(device)
        self._window = torch.hann_window(N_FFT, device=device)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(B, 2, S) → (B, 64, ceil(S / 2048)) log-mel of the mono mean."""
        mono = pad_to_frames(audio.mean(dim=1).to(self._window.device, torch.float32))
        padded = functional.pad(mono, (MARGIN, MARGIN))
        spectrum = torch.stft(padded, N_FFT, HOP, window=self._window, center=False, return_complex=True)
        return (self._bands @ spectrum.abs()).clamp(min=FLOOR).log().to(audio.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, 64, T) → (B, 2, T · 2048); the same latents give the same samples."""
        logarithms = latents.to(self._window.device, torch.float32).clamp(max=CEILING)
        mel = (logarithms.exp() - FLOOR).clamp(min=0.0)
        # Frames are centred half a hop in, the inverse wants them on the hops: one more at each end.
        magnitude = functional.pad(self._magnitude(mel), (1, 1), mode="replicate")
        samples = (latents.shape[-1] + 1) * HOP
        mono = griffinlim(
            magnitude, self._window, N_FFT, HOP, N_FFT, power=1.0, n_iter=ROUNDS, momentum=0.9,
            length=samples, rand_init=False,
        )  # fmt: skip
        return mono[:, None, MARGIN:-MARGIN].expand(-1, 2, -1).contiguous().to(latents.device)

    def cancel(self) -> None:
        """Nobody waits for anybody here."""

    def _magnitude(self, mel: Tensor) -> Tensor:
        """Mel (B, 64, T) → magnitude spectrum (B, 2049, T), none below zero.

        The pseudo-inverse is cut off at zero, and what that spoils is mended by the multiplicative steps of
        non-negative least squares (Lee and Seung, 2000).
        """
        magnitude = (self._inverse @ mel).clamp(min=1e-8)
        spread = self._bands.T @ mel
        for _ in range(REFINEMENTS):
            magnitude = magnitude * spread / (self._bands.T @ (self._bands @ magnitude) + 1e-9)
        return magnitude
