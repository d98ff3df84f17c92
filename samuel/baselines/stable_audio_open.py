"""Stable Audio Open (Evans et al., 2024) by diffusers' own pipeline: text alone, as the paper has it (§VI).

It never hears the vocal: what it writes fits in length and in nothing else. It makes 47.55 s at a time and
knows no way to go on from them; longer vocals are refused, for pieces that know nothing of one another would
not be its music.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samuel.audio import SAMPLE_RATE, SLACK_S, Audio
from samuel.baselines.render import DTYPES, precision_on
from samuel.baselines.weights import (
    hushed,
    loaded,
    model_folder,
    model_name,
    require_kind,
    require_packages,
    unusable,
    weights_of,
)
from samuel.config import StableAudioOpenConfig
from samuel.device import inference
from samuel.errors import InputError, MissingPartError, SettingsError

MODEL = "stabilityai/stable-audio-open-1.0"
FILES = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.model")
"""Of diffusers' layout: beside it lie the same weights in that of stable-audio-tools."""
SCHEDULER = "CosineDPMSolverMultistepScheduler"


@dataclass(frozen=True)
class StableAudioOpen:
    """The pipeline of diffusers, behind our call.

    Attributes:
        model: Where its weights are from.
        pipeline: A `StableAudioPipeline`.
        config: How it samples.
        weights: Stands for its files.
        device: Where it computes.
    """

    model: str
    pipeline: Any
    config: StableAudioOpenConfig
    weights: str
    device: torch.device
    name: str = "Stable Audio Open"
    conditioning: str = "text"

    @property
    def parameters(self) -> int:
        """Of the diffusion transformer, without text encoder and autoencoder."""
        return sum(parameter.numel() for parameter in self.pipeline.transformer.parameters())

    @property
    def seed(self) -> int:
        """The base seed."""
        return self.config.seed

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the audio."""
        precision = precision_on(self.config, self.device)
        return self.config.model_dump(mode="json") | {"precision": precision, "weights": self.weights}

    @property
    def longest_s(self) -> float:
        """So much it makes: 47.55 s."""
        return self.pipeline.transformer.config.sample_size * self.pipeline.vae.hop_length / SAMPLE_RATE

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S'), as long unless the vocal is up to a quarter second longer than `longest_s`."""
        vocal_s = vocal.shape[1] / SAMPLE_RATE
        if vocal_s > self.longest_s + SLACK_S:
            raise InputError(
                f"the vocal lasts {vocal_s:.2f} s, and {self.name} makes {self.longest_s:.2f} s at most"
            )
        with inference(self.device, "fp32"), hushed():
            audio = self.pipeline(
                self.config.prompt,
                negative_prompt=self.config.negative_prompt,
                num_inference_steps=self.config.steps,
                guidance_scale=self.config.guidance_scale,
                # half a sample more, for it rounds down
                audio_end_in_s=min(vocal_s + 0.5 / SAMPLE_RATE, self.longest_s),
                generator=torch.Generator().manual_seed(seed),  # of the CPU: the same noise on any device
            ).audios[0]
        stereo = audio.float().cpu().expand(2, -1)
        return np.ascontiguousarray(stereo.numpy(), dtype=np.float32)


def load_stable_audio_open(
    model: str, config: StableAudioOpenConfig, device: torch.device
) -> StableAudioOpen:
    """Stable Audio Open from the hub or a folder, in the layout of diffusers.

    Args:
        model: `owner/name` or a folder.
        config: How it samples.
        device: Where it computes.

    Raises:
        MissingPartError: A package is missing, or the weights are absent, gated, damaged or of another kind.
        SettingsError: The prompt is longer than its text encoder reads.
        OperatorError: The disk is full.
    """
    require_packages("Stable Audio Open", "transformers", "diffusers", "torchsde")
    folder = model_folder(model, FILES)
    require_kind(folder / "model_index.json", "_class_name", "StableAudioPipeline")
    require_kind(folder / "scheduler" / "scheduler_config.json", "_class_name", SCHEDULER)
    pipeline = _pipeline(folder, DTYPES[precision_on(config, device)])
    if pipeline.vae.config.sampling_rate != SAMPLE_RATE:
        raise MissingPartError(f"{folder}: of {pipeline.vae.config.sampling_rate} Hz, not {SAMPLE_RATE}")
    for setting in ("prompt", "negative_prompt"):
        _require_short(setting, getattr(config, setting) or "", pipeline.tokenizer)
    pipeline.to(device).set_progress_bar_config(disable=True)
    return StableAudioOpen(model_name(model), pipeline, config, weights_of(folder, FILES), device)


def _pipeline(folder: Path, dtype: torch.dtype) -> Any:
    """Part by part: the pipeline's own loader takes classes from the files, and fills gaps with noise."""
    with hushed():
        from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
        from diffusers.models.transformers.stable_audio_transformer import StableAudioDiTModel
        from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
        from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline
        from diffusers.schedulers.scheduling_cosine_dpmsolver_multistep import (
            CosineDPMSolverMultistepScheduler,
        )
        from transformers import T5EncoderModel, T5Tokenizer

        transformer = loaded(StableAudioDiTModel, folder / "transformer", torch_dtype=dtype)
        vae = loaded(AutoencoderOobleck, folder / "vae", torch_dtype=dtype)
        projection = loaded(StableAudioProjectionModel, folder / "projection_model", torch_dtype=dtype)
        text_encoder = loaded(T5EncoderModel, folder / "text_encoder", dtype=dtype)
        try:
            scheduler: Any = CosineDPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
            tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        except Exception as error:
            raise unusable(folder, error) from error
        return StableAudioPipeline(vae, text_encoder, projection, tokenizer, transformer, scheduler)


def _require_short(setting: str, text: str, tokenizer: Any) -> None:
    with hushed():
        tokens = len(tokenizer(text).input_ids)
    if tokens > tokenizer.model_max_length:
        raise SettingsError(
            f"setting {setting}: {tokens} tokens, of which the text encoder reads"
            f" {tokenizer.model_max_length}; make it shorter"
        )
