"""Systems of other libraries: MusicGen with melody conditioning, and Stable Audio Open (paper §VI).

Weights are fetched, checked before use, and identified by digest.

Legend: K codebooks, T token frames (50 in a second), S samples.
"""

import importlib.util
import io
import logging
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from samuel.artifacts import digest, sha256
from samuel.audio import SAMPLE_RATE, SLACK_S, Audio
from samuel.baselines.render import Renderer
from samuel.config import BaselineConfig, MusicGenConfig, StableAudioOpenConfig
from samuel.device import inference
from samuel.errors import InputError, MissingPartError, SettingsError
from samuel.hub import hub_error, quietly
from samuel.reading import read_json
from samuel.text import install_extra

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Pretrained(Renderer):
    """A system of another library, from `owner/name` of the hub or a folder in that library's layout.

    MissingPartError where a package is missing, or the weights are absent, gated, damaged or of another kind.
    """

    repository: ClassVar[str]  # of the hub, that its weights are from by default
    packages: ClassVar[tuple[str, ...]]  # that it needs
    files: ClassVar[tuple[str, ...]]  # of a repository that it reads, none that would have to be unpickled
    kinds: ClassVar[dict[str, tuple[str, str]]]  # configuration file → key in it, and the value wanted there

    def __init__(self, model: str, config: BaselineConfig, device: torch.device) -> None:
        if missing := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            raise MissingPartError(f"{self.name} needs {' and '.join(missing)}: {install_extra('baselines')}")
        self.config: Any = config
        local, precision = Path(model).expanduser(), config.precision
        folder = local if local.is_dir() else self._fetch(model)
        if precision == "auto":
            precision = "fp16" if device.type == "cuda" else "fp32"
        if strange := [path for path in folder.rglob("*") if not path.is_file() and not path.is_dir()]:
            raise MissingPartError(f"{strange[0]}: no regular file; remove it")
        for name, (key, kind) in self.kinds.items():  # another model is refused before its weights are read
            file = folder / name
            try:
                found = read_json(file.resolve())[key]
            except (OSError, InputError, KeyError, TypeError) as error:
                reason = f"cannot be read as the configuration of a {kind} ({type(error).__name__})"
                raise MissingPartError(f"{file}: {reason}; give --model a whole repository") from error
            if found != kind:
                raise MissingPartError(f"{file}: {key} is {found!r:.80}, not {kind!r}; give another --model")
        with quiet_libraries():
            network = self.load(folder, DTYPES[precision], device)
        files = sorted({path for pattern in self.files for path in folder.glob(pattern)})
        weights = digest({path.relative_to(folder).as_posix(): sha256(path) for path in files})
        name = folder.resolve().name if local.is_dir() else model
        super().__init__(name, network, config, device, precision=precision, weights=weights)

    def _fetch(self, model: str) -> Path:
        if model.count("/") != 1 or model.startswith((".", "/", "~")):
            raise MissingPartError(f"{model}: no such folder, and no hub repository (owner/name)")
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(model, allow_patterns=list(self.files)))
        except Exception as error:
            remedy = "or give --model a folder that holds the whole repository"
            raise hub_error(error, model, remedy) from error

    @abstractmethod
    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Load all parts of it, and return the network whose parameters count."""


def load_network(network: Any, folder: Path, **options: Any) -> Any:
    """Load a class of network by its library's own `from_pretrained`, from safetensors alone and whole.

    The libraries make up for missing tensors with random numbers. Tensors to spare are let pass.
    """
    if not any(folder.glob("*.safetensors")):
        raise MissingPartError(f"{folder}: holds no safetensors; pickled weights (.bin, .ckpt) are not read")
    try:
        built, found = network.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:
        raise unusable(folder, error) from error
    for key, fault in (("missing_keys", "are missing"), ("mismatched_keys", "are of another shape")):
        if names := sorted(map(str, found.get(key) or ())):
            listed = f"{len(names)} tensors {fault} ({', '.join(names[:3]):.300})"
            raise MissingPartError(f"{folder}: weights of another layout: {listed}; fetch it again")
    return built


def unusable(folder: Path, error: Exception) -> MissingPartError:
    """The error to raise where a library cannot make a network of the files."""
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"
    return MissingPartError(f"{folder}: not usable ({reason}); fetch it again, or take another model")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the prints, warnings, logs and progress bars of transformers and diffusers."""
    with quietly(), redirect_stderr(io.StringIO()):
        # They set their loggers up, level and all, when they are imported.
        loggers = [
            import_module(f"{name}.utils.logging").get_logger(name) for name in ("diffusers", "transformers")
        ]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class MusicGen(Pretrained):
    """MusicGen by transformers (Copet et al., 2023); others than `musicgen_melody` do not hear a vocal.

    Its chroma is that of the vocal itself. The model learned 30 s: longer vocals go through in windows of
    30 s that each begin with the last 12 s of *tokens* of the one before, as its authors' own code goes on.
    Where two windows overlap, both decode the same tokens, and one fades into the other.
    """

    repository = "facebook/musicgen-melody-large"  # the paper's MusicGen Large, 3.3 B parameters
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
        steps: list[Tensor] = []  # what it begins with, then the tokens of each step
        streamer = SimpleNamespace(put=lambda tokens: steps.append(tokens.cpu()), end=lambda: None)
        audio = self.network.generate(
            **{name: tensor.to(self.device) for name, tensor in (*inputs.items(), *begun.items())},
            max_new_tokens=frames - known + delays - 1, do_sample=True, top_k=self.config.top_k,
            guidance_scale=self.config.guidance_scale, temperature=self.config.temperature, streamer=streamer,
        )[0]  # fmt: skip
        whole = torch.cat([step.reshape(decoder.num_codebooks, -1) for step in steps], dim=1)
        tokens = undelay(whole, frames, decoder.audio_channels)
        if prompt is not None:
            tokens[:, :known] = prompt  # what is sampled at its place is never used
        return audio[:, : frames * self.hop].float().cpu(), tokens


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


class StableAudioOpen(Pretrained):
    """Stable Audio Open (Evans et al., 2024) by diffusers' own pipeline: by text alone, as the paper has it.

    It never hears the vocal, and makes 47.55 s at most; longer vocals are refused. SettingsError where the
    prompt is longer than its text encoder reads.
    """

    repository = "stabilityai/stable-audio-open-1.0"
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
        """Load part by part: the pipeline's own loader takes classes from files, and fills gaps."""
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
