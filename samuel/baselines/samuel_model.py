"""Our own model, as one system among others."""

from dataclasses import dataclass
from typing import Any

import torch

from samuel.audio import Audio
from samuel.checkpoint import TrainedModel
from samuel.codec import Codec
from samuel.config import SamplingConfig
from samuel.generate.accompany import accompany


@dataclass(frozen=True)
class Samuel:
    """A trained model behind the call of all systems.

    Attributes:
        model: The name of its folder.
        trained: From `load_model`.
        codec: The codec whose latents it learned.
        sampling: How it samples.
        device: Where it computes.
    """

    model: str
    trained: TrainedModel
    codec: Codec
    sampling: SamplingConfig
    device: torch.device
    name: str = "SAMUeL"
    conditioning: str = "vocal"

    @property
    def parameters(self) -> int:
        """Of the U-Net: the paper's 15 M."""
        return sum(parameter.numel() for parameter in self.trained.network.parameters())

    @property
    def seed(self) -> int:
        """The base seed."""
        return self.sampling.seed

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the audio."""
        return self.sampling.model_dump(mode="json") | {
            "codec": self.codec.identity,
            "weights": self.trained.sha256,
        }

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S): what `samuel generate --seed` writes with the same seed."""
        sampling = self.sampling.model_copy(update={"seed": seed})
        return accompany(vocal, self.trained, self.codec, sampling)
