"""What a system must be able to do, and the settings that the paper's baselines share."""

from typing import Any, Literal, Protocol, TypeVar

import torch
from pydantic import Field, ValidationError

from samuel.audio import Audio
from samuel.config import Section
from samuel.config.section import Seed
from samuel.errors import SettingsError
from samuel.files import digest

PROMPT = "instrumental pop accompaniment with drums, bass, guitar and keyboards"
"""Says what a pop band is and nothing of any song: the same for every track."""
Precision = Literal["auto", "fp32", "fp16", "bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Renderer(Protocol):
    """A system, loaded and ready.

    Attributes:
        name: What reports call it.
        model: The hub's repository, or the name of the folder, that its weights are from.
        parameters: Of the network that writes latents or tokens, without codec and text encoder: as the
            paper counts SAMUeL's 15 M and MusicGen's 3.3 B.
        conditioning: What it hears or reads: "vocal", "text", "vocal, text".
        settings: Everything else that determines its audio, the weights' digest and the base seed included
            (JSON).
        seed: The base seed.
        device: Where it computes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - the attributes above
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def parameters(self) -> int: ...  # noqa: D102
    @property
    def conditioning(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def render(self, vocal: Audio, seed: int) -> Audio:
        """An accompaniment, about as long as the vocal.

        Args:
            vocal: (2, S) float32 at 44.1 kHz, S at least 1.
            seed: The same seed and vocal give the same samples on the same machine.

        Returns:
            (2, S') float32 at 44.1 kHz; it may pass full scale.

        Raises:
            InputError: The system cannot do it for this vocal.
        """
        ...


class BaselineConfig(Section):
    """What MusicGen and Stable Audio Open are both told."""

    prompt: str = Field(default=PROMPT, min_length=1, description="the same text for every track")
    precision: Precision = Field(default="auto", description="auto: fp16 on a CUDA GPU, fp32 elsewhere")
    seed: Seed = Field(default=0, description="each track's own seed follows from it and the track's name")

    def precision_on(self, device: torch.device) -> str:
        """The precision that `auto` stands for there."""
        if self.precision != "auto":
            return self.precision
        return "fp16" if device.type == "cuda" else "fp32"


Config = TypeVar("Config", bound=Section)


def parse_section(section: type[Config], values: Any) -> Config:
    """Settings of one system from plain values.

    Raises:
        SettingsError: One line per wrong setting.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [
            f"setting {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            f" (given: {problem['input']!r:.200})"
            for problem in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from None


def track_seed(seed: int, track: str) -> int:
    """The seed of one track, below 2³²: whichever tracks are rendered besides, and in whatever order.

    With one seed for all, a system that hears no vocal would write the same audio for every track.
    """
    return int(digest("track", seed, track)[:8], 16)
