"""MusicGen with melody conditioning (Copet et al., "Simple and Controllable Music Generation", 2023).

Its chroma is that of the vocal itself: the extractor takes sources apart only where it is given a mix.
The model learned 30 s. Longer vocals go through in windows of 30 s that each begin with the last 12 s of
*tokens* of the one before, under the vocal's chroma from where they begin: how its authors' own code goes on
beyond 30 s. transformers takes such a beginning as `decoder_input_ids` and hands tokens out through a
streamer, so nothing is encoded a second time. In the 12 s that two windows share both decode the same tokens,
and one fades into the other.

Legend: K codebooks, T token frames (50 in a second), S samples.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio
from samuel.baselines.base import Pretrained, load_network, quiet_libraries, unusable
from samuel.config import MusicGenConfig
from samuel.device import inference

MODEL = "facebook/musicgen-melody-large"
"""The paper's MusicGen Large, 3.3 B parameters, conditioned on vocal and text."""


class MusicGen(Pretrained):
    """MusicGen by transformers; models of other kinds than `musicgen_melody` do not hear a vocal."""

    config: MusicGenConfig
    name = "MusicGen"
    conditioning = "vocal, text"
    packages = ("transformers",)
    files = ("*.json", "*.safetensors", "*.model")
    kinds: ClassVar = {"config.json": ("model_type", "musicgen_melody")}

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Load the network and its processor; the language model's parameters count."""
        from transformers import MusicgenMelodyForConditionalGeneration, MusicgenMelodyProcessor

        options = {"dtype": dtype, "trust_remote_code": False}
        network = load_network(MusicgenMelodyForConditionalGeneration, folder, **options)
        try:
            self.processor: Any = MusicgenMelodyProcessor.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            raise unusable(folder, error) from error
        network.audio_encoder.float()  # rounded to 16 bits, a codec would be heard to hiss
        self.network: Any = network.to(device).eval()
        self.hop: int = self.network.config.audio_encoder.hop_length
        self.rate: int = self.processor.feature_extractor.sampling_rate
        return self.network.decoder

    def render(self, vocal: Audio, seed: int) -> Audio:
        """(2, S) → (2, S'), as long to a token of 20 ms."""
        from torchaudio.functional import resample

        voice = resample(torch.from_numpy(vocal.mean(axis=0)), SAMPLE_RATE, self.rate)
        frames = math.ceil(vocal.shape[1] / SAMPLE_RATE * self.rate / self.hop)
        length = self.processor.feature_extractor.n_samples // self.hop
        windows = windows_of(frames, length, round(self.config.overlap * length))
        places = [range(window.start * self.hop, window.stop * self.hop) for window in windows]
        made, tokens, end = [], None, 0
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), inference(self.device, "fp32"), quiet_libraries():
            torch.manual_seed(seed)
            for window, place in zip(windows, places, strict=True):
                shared = end - window.start
                prompt = tokens[:, -shared:] if tokens is not None and shared > 0 else None
                audio, tokens = self._window(voice[place.start : place.stop], len(window), prompt)
                made.append(audio)
                end = window.stop
        stereo = resample(crossfade(made, places), self.rate, SAMPLE_RATE).expand(2, -1)
        return np.ascontiguousarray(stereo.numpy(), dtype=np.float32)

    def _window(self, voice: Tensor, frames: int, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        """(S,) of voice and (K, T') of tokens to begin with → (1 or 2, T · hop) and its (K, T) tokens."""
        # A voice shorter than 30 s is repeated by the network.
        inputs = self.processor(
            audio=[voice.numpy()], sampling_rate=self.rate, text=[self.config.prompt],
            padding=True, return_tensors="pt",
        )  # fmt: skip
        inputs["input_features"] = inputs["input_features"].to(self.network.dtype)
        begun = {} if prompt is None else {"decoder_input_ids": prompt}
        decoder = self.network.config.decoder
        delays = decoder.num_codebooks // decoder.audio_channels
        known = 0 if prompt is None else prompt.shape[1]
        streamed = _Tokens()
        audio = self.network.generate(
            **{name: tensor.to(self.device) for name, tensor in (*inputs.items(), *begun.items())},
            max_new_tokens=frames - known + delays - 1,
            do_sample=True,
            guidance_scale=self.config.guidance_scale,
            temperature=self.config.temperature,
            top_k=self.config.top_k,
            streamer=streamed,
        )[0]
        steps = torch.cat([step.reshape(decoder.num_codebooks, -1) for step in streamed.steps], dim=1)
        tokens = undelay(steps, frames, decoder.audio_channels)
        if prompt is not None:
            tokens[:, :known] = prompt  # what is sampled at its place is never used
        return audio[:, : frames * self.hop].float().cpu(), tokens


class _Tokens:
    """Collects what `generate` hands to a streamer: what it begins with, then the tokens of each step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        self.steps.append(value.cpu())

    def end(self) -> None:
        """Nothing is left to do."""


def windows_of(frames: int, length: int, overlap: int) -> list[range]:
    """Windows of `length` frames that share `overlap` with the one before; the last is as long as is left."""
    starts = range(0, max(1, frames - overlap), length - overlap)
    return [range(start, min(start + length, frames)) for start in starts]


def undelay(tokens: Tensor, frames: int, channels: int) -> Tensor:
    """(K, steps) in MusicGen's delay pattern → (K, frames).

    The first column begins a sequence; codebook k of a channel comes k steps later. Stereo codebooks
    alternate: left, right, left, right.
    """
    delays = [1 + codebook // channels for codebook in range(len(tokens))]
    return torch.stack([row[delay : delay + frames] for row, delay in zip(tokens, delays, strict=True)])


def crossfade(pieces: list[Tensor], places: list[range]) -> Tensor:
    """(C, n) each, at their places → (C, S): where two overlap, one fades into the other linearly."""
    whole = torch.zeros(len(pieces[0]), places[-1].stop)
    whole[:, : places[0].stop] = pieces[0]
    for piece, (before, place) in zip(pieces[1:], pairwise(places), strict=True):
        shared = before.stop - place.start
        ramp = torch.linspace(0, 1, shared)
        whole[:, place.start : before.stop] *= 1 - ramp
        whole[:, place.start : before.stop] += ramp * piece[:, :shared]
        whole[:, before.stop : place.stop] = piece[:, shared:]
    return whole
