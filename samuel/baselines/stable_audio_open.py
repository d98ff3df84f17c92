"""Stable Audio Open (Evans et al., 2024) by diffusers' own pipeline: text alone, as the paper has it (§VI).

It never hears the vocal: what it writes fits in length and in nothing else. It makes 47.55 s at a time and
knows no way to go on from them; longer vocals are refused, for pieces that know nothing of one another would
not be its music.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from samuel.audio import SAMPLE_RATE, SLACK_S, Audio
from samuel.baselines.base import Pretrained, load_network, quiet_libraries, unusable
from samuel.config import StableAudioOpenConfig
from samuel.device import inference
from samuel.errors import InputError, MissingPartError, SettingsError

MODEL = "stabilityai/stable-audio-open-1.0"


class StableAudioOpen(Pretrained):
    """Stable Audio Open by diffusers.

    Raises:
        SettingsError: The prompt is longer than its text encoder reads.
    """

    config: StableAudioOpenConfig
    name = "Stable Audio Open"
    conditioning = "text"
    packages = ("transformers", "diffusers", "torchsde")
    # In diffusers' layout: beside it lie the same weights in that of stable-audio-tools.
    files = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.model")
    kinds: ClassVar = {
        "model_index.json": ("_class_name", "StableAudioPipeline"),
        "scheduler/scheduler_config.json": ("_class_name", "CosineDPMSolverMultistepScheduler"),
    }

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Load part by part; the parameters of the diffusion transformer count.

        The pipeline's own loader takes classes from files, and fills gaps with noise.
        """
        from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
        from diffusers.models.transformers.stable_audio_transformer import StableAudioDiTModel
        from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
        from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline
        from diffusers.schedulers.scheduling_cosine_dpmsolver_multistep import (
            CosineDPMSolverMultistepScheduler,
        )
        from transformers import T5EncoderModel, T5Tokenizer

        transformer = load_network(StableAudioDiTModel, folder / "transformer", torch_dtype=dtype)
        vae = load_network(AutoencoderOobleck, folder / "vae", torch_dtype=dtype)
        projection = load_network(StableAudioProjectionModel, folder / "projection_model", torch_dtype=dtype)
        text_encoder = load_network(T5EncoderModel, folder / "text_encoder", dtype=dtype)
        try:
            scheduler: Any = CosineDPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
            tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        except Exception as error:
            raise unusable(folder, error) from error
        self.pipeline: Any = StableAudioPipeline(
            vae, text_encoder, projection, tokenizer, transformer, scheduler
        )
        if (rate := self.pipeline.vae.config.sampling_rate) != SAMPLE_RATE:
            raise MissingPartError(f"{folder}: of {rate} Hz, not {SAMPLE_RATE}")
        for setting in ("prompt", "negative_prompt"):
            tokens = len(self.pipeline.tokenizer(getattr(self.config, setting) or "").input_ids)
            if tokens > (most := self.pipeline.tokenizer.model_max_length):
                raise SettingsError(
                    f"setting {setting}: {tokens} tokens, of which {most} are read; shorten it"
                )
        self.pipeline.to(device).set_progress_bar_config(disable=True)
        return self.pipeline.transformer

    @property
    def longest_s(self) -> float:
        """The most it makes: 47.55 s."""
        return self.pipeline.transformer.config.sample_size * self.pipeline.vae.hop_length / SAMPLE_RATE

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S'), as long unless the vocal is up to a quarter second longer than `longest_s`."""
        vocal_s = vocal.shape[1] / SAMPLE_RATE
        if vocal_s > self.longest_s + SLACK_S:
            longest = f"{self.name} makes {self.longest_s:.2f} s at most"
            raise InputError(f"the vocal lasts {vocal_s:.2f} s, and {longest}")
        with inference(self.device, "fp32"), quiet_libraries():
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
