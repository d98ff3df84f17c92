"""What training does to the vocal, so that it does not learn the marks of the separator.

Every vocal of the training set was separated from a mix; one sung on its own is cleaner than anything the
network has seen, and models trained on separated vocals alone fail there (SingSong, arXiv 2301.12662;
AnyAccomp, arXiv 2509.14052).

Shapes: B batch, C = 64 latent channels, T frames.
"""

import torch
from torch import Tensor

from samuel.config import AugmentationConfig


def augmented(vocal: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Vocals with a gain, an equaliser and noise of their own, each item apart from the others.

    Gain multiplies an item by 1 + U(-gain, gain), equaliser adds an offset N(0, equaliser²) to each of its
    channels for the whole length, noise adds white noise of deviation U(0, noise), in this order. A choice
    that is 0 draws nothing; where all are, the vocal itself comes back.

    What they are in the sound depends on the codec. The latents of `mel` are log-magnitudes of bands: there
    the offsets are exactly an equaliser, the gain stretches how far the bands are from the training songs'
    mean, which is contrast and not loudness, and the noise is a jitter of the bands' levels. In learned
    latents, such as those of `stable-audio-open`, none has such a meaning; they are the nearest relatives.

    Args:
        vocal: (B, C, T) normalised float32, on any device; it is left as it was.
        config: How much of each.
        generator: On the vocal's device, where drawing costs nothing, or on any other.

    Returns:
        (B, C, T) of the same kind.
    """
    items, channels, _ = vocal.shape
    if config.gain:
        vocal = vocal * (1 + config.gain * (2 * _uniform(items, vocal, generator) - 1))
    if config.equaliser:
        offsets = torch.randn(items, channels, 1, generator=generator, device=generator.device)
        vocal = vocal + config.equaliser * offsets.to(vocal)
    if config.noise:
        deviation = config.noise * _uniform(items, vocal, generator)
        vocal = vocal + deviation * torch.randn(vocal.shape, generator=generator, device=generator.device).to(
            vocal
        )
    return vocal


def _uniform(items: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(items, 1, 1, generator=generator, device=generator.device).to(like)
