import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.audio import SAMPLE_RATE
from samuel.baselines.pretrained import StableAudioOpen, quiet_libraries
from samuel.config import StableAudioOpenConfig
from samuel.errors import InputError, MissingPartError
from tests.baselines.layouts import OPEN_FRAMES
from tests.generate.voices import voice

CPU = torch.device("cpu")
CONFIG = StableAudioOpenConfig(prompt="pop with drums", steps=3)
LONGEST = OPEN_FRAMES * 2048


@pytest.fixture(scope="module")
def folder(weights: dict[str, Path]) -> Path:
    return weights["stable-audio-open"]


@pytest.fixture(scope="module")
def system(folder: Path) -> StableAudioOpen:
    return StableAudioOpen(str(folder), CONFIG, CPU)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def test_it_is_what_the_librarys_own_pipeline_gives(system: StableAudioOpen, folder: Path) -> None:
    with quiet_libraries():
        from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline

        pipeline: Any = StableAudioPipeline.from_pretrained(folder)
        wanted = pipeline(
            "pop with drums", num_inference_steps=3, audio_end_in_s=30_000.5 / SAMPLE_RATE,
            generator=torch.Generator().manual_seed(5),
        ).audios[0]  # fmt: skip
    made = system.render(voice(30_000), seed=5)
    assert made.shape == (2, 30_000)
    assert np.array_equal(made, wanted.numpy())


def test_seed_and_text_decide_and_the_vocal_does_not(system: StableAudioOpen, folder: Path) -> None:
    first = system.render(voice(30_000), seed=1)
    assert np.array_equal(system.render(voice(30_000, level=0.01), seed=1), first)
    assert not np.array_equal(system.render(voice(30_000), seed=2), first)
    other = StableAudioOpen(str(folder), CONFIG.model_copy(update={"prompt": "a b c"}), CPU)
    assert not np.array_equal(other.render(voice(30_000), seed=1), first)
    assert system.conditioning == "text"


def test_it_is_as_long_as_the_vocal_and_a_longer_one_is_refused(system: StableAudioOpen) -> None:
    for samples in (1, 40_001, LONGEST - 1):
        assert system.render(voice(samples), seed=0).shape == (2, samples)
    assert system.render(voice(LONGEST + SAMPLE_RATE // 5), seed=0).shape == (2, LONGEST)
    with pytest.raises(InputError, match=r"lasts 2\.00 s, and Stable Audio Open makes 1\.49 s at most"):
        system.render(voice(2 * SAMPLE_RATE), seed=0)


def test_a_part_without_a_tensor_is_named(copied: Path) -> None:
    """diffusers would fill the gap with random numbers."""
    part = "transformer"
    file = next((copied / part).glob("*.safetensors"))
    state = load_file(file)
    lost = min(name for name in state if "weight" in name)
    del state[lost]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(MissingPartError, match=rf"{part}: .*{re.escape(lost)}"):
        StableAudioOpen(str(copied), CONFIG, CPU)
