"""The base class of systems that accompany a vocal, and our own model as one of them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from samuel.audio import Audio
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import BaselineConfig, SamplingConfig
from samuel.generate.accompany import accompany

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision_on(config: BaselineConfig, device: torch.device) -> str:
    """The precision that `auto` stands for on a device."""
    if config.precision != "auto":
        return config.precision
    return "fp16" if device.type == "cuda" else "fp32"


class Renderer(ABC):
    """A system, loaded and ready.

    Attributes:
        name: What reports call it.
        conditioning: What it is given: "vocal", "text", "vocal, text".
        model: The hub's repository, or the name of the folder, that its weights are from.
        parameters: Of the network that writes latents or tokens, without codec and text encoder: as the
            paper counts SAMUeL's 15 M and MusicGen's 3.3 B.
        settings: All that determines its audio, the weights' digest and the base seed included (JSON).
        seed: The base seed.
        device: Where it computes.
    """

    name: ClassVar[str]
    conditioning: ClassVar[str]

    def __init__(
        self,
        model: str,
        network: torch.nn.Module,
        config: SamplingConfig | BaselineConfig,
        device: torch.device,
        **identity: Any,
    ) -> None:
        self.model, self.device, self.seed = model, device, config.seed
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.settings = config.model_dump(mode="json") | identity

    @abstractmethod
    def render(self, vocal: Audio, seed: int) -> Audio:
        """Write an accompaniment about as long as the vocal.

        Args:
            vocal: (2, S) float32 at 44.1 kHz, S at least 1.
            seed: The same seed and vocal give the same samples on the same machine.

        Returns:
            (2, S') float32 at 44.1 kHz; it may pass full scale.

        Raises:
            InputError: The system cannot do it for this vocal.
        """


class Samuel(Renderer):
    """A trained model of ours, with the codec whose latents it learned."""

    name = "SAMUeL"
    conditioning = "vocal"

    def __init__(
        self, model: str, trained: TrainedModel, codec: Codec, sampling: SamplingConfig, device: torch.device
    ) -> None:
        identity = {"codec": codec.info.model_dump(), "weights": trained.sha256}
        super().__init__(model, trained.network, sampling, device, **identity)
        self.trained, self.codec, self.sampling = trained, codec, sampling

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S): what `samuel generate --seed` writes with the same seed."""
        sampling = self.sampling.model_copy(update={"seed": seed})
        return accompany(vocal, self.trained, self.codec, sampling)
