"""Systems of other libraries against what the libraries themselves give, on small random weights."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchaudio.functional import resample

from samuel.audio import SAMPLE_RATE, Audio
from samuel.baselines.pretrained import (
    MusicGen,
    StableAudioOpen,
    crossfade,
    quiet_libraries,
    undelay,
    windows_of,
)
from samuel.config import MusicGenConfig, StableAudioOpenConfig
from samuel.errors import InputError, MissingPartError
from tests.baselines.layouts import OPEN_FRAMES
from tests.generate.voices import voice
from tests.weights import Trap

CPU = torch.device("cpu")
CONFIG = MusicGenConfig()


@pytest.fixture
def copied(weights: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights["musicgen"], tmp_path / "model"))


def test_what_is_neither_folder_nor_repository_is_named() -> None:
    for name in ("absent", "./absent/model", "a/b/c"):
        with pytest.raises(MissingPartError, match="no such folder, and no hub repository"):
            MusicGen(name, CONFIG, CPU)


def test_another_kind_of_model_is_refused_before_its_weights_are_read(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    for content, words in (
        (b"\xff", "cannot be read as the configuration"),
        (b'{"model_type": "musicgen"}', "model_type is 'musicgen', not 'musicgen_melody'"),
    ):
        (copied / "config.json").write_bytes(content)
        with pytest.raises(MissingPartError, match=rf"config\.json: .*{words}"):
            MusicGen(str(copied), CONFIG, CPU)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickled", "holds no safetensors; pickled weights"),
        ("trapped", "not usable"),
        ("piped", "no regular file"),
        ("halved", r"not usable \(.*fetch it again"),
        ("without a tensor", r"1 tensors are missing \(audio_enc_to_dec_proj\.weight\)"),
    ],
)
def test_weights_that_are_not_whole_are_refused(how: str, words: str, copied: Path) -> None:
    file, sprung = copied / "model.safetensors", copied.parent / "sprung"
    for name in ("pytorch_model.bin", "model.ckpt", *([file.name] if how == "trapped" else [])):
        torch.save(Trap(sprung), copied / name)
    if how in ("pickled", "piped"):
        file.unlink()
    if how == "piped":
        os.mkfifo(file)
    elif how == "halved":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "without a tensor":  # transformers would draw it at random, and say so in a log at most
        state = load_file(file)
        del state["audio_enc_to_dec_proj.weight"]
        save_file(state, file, {"format": "pt"})
    with pytest.raises(MissingPartError, match=rf"{copied}.*: .*{words}"):
        MusicGen(str(copied), CONFIG, CPU)
    assert not sprung.exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchsde", None)
    with pytest.raises(MissingPartError, match=r"torchsde: pip install 'samuel-accompaniment\[baselines\]'"):
        StableAudioOpen("absent", StableAudioOpenConfig(), CPU)


PROMPT = "instrumental pop"


@pytest.fixture(scope="module")
def musicgen(weights: dict[str, Path]) -> MusicGen:
    return MusicGen(str(weights["musicgen"]), MusicGenConfig(prompt=PROMPT), CPU)


@pytest.fixture(scope="module")
def stereo(weights: dict[str, Path]) -> MusicGen:
    return MusicGen(str(weights["musicgen-stereo"]), MusicGenConfig(prompt=PROMPT), CPU)


def tone(seconds: float, pitch: Callable[[np.ndarray], np.ndarray] | float) -> Audio:
    """(2, S) of a sine whose pitch in Hz may change with the time in seconds."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hertz = pitch(time) if callable(pitch) else np.full_like(time, pitch)
    wave = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE)
    return np.stack([wave, wave]).astype(np.float32)


def test_one_window_is_what_the_library_itself_generates(
    musicgen: MusicGen, weights: dict[str, Path]
) -> None:
    """By the calls of its documentation, on what its own `from_pretrained` reads."""
    vocal, seconds = tone(1.5, 220.0), 1.5
    with quiet_libraries(), torch.random.fork_rng():
        from transformers import MusicgenMelodyForConditionalGeneration, MusicgenMelodyProcessor

        model = MusicgenMelodyForConditionalGeneration.from_pretrained(weights["musicgen"])
        processor = MusicgenMelodyProcessor.from_pretrained(weights["musicgen"])
        voice = resample(torch.from_numpy(vocal[0]), SAMPLE_RATE, 32_000).numpy()
        inputs = processor(
            audio=[voice], sampling_rate=32_000, text=[PROMPT], padding=True, return_tensors="pt"
        )
        torch.manual_seed(5)
        tokens = round(50 * seconds) + 3
        wanted = model.generate(**inputs, do_sample=True, guidance_scale=3, top_k=250, max_new_tokens=tokens)
    made = musicgen.render(vocal, seed=5)
    assert made.shape == vocal.shape
    assert np.array_equal(made[0], made[1])
    assert np.allclose(made[0], resample(wanted[0, 0], 32_000, SAMPLE_RATE).numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["musicgen", "stereo"])
def test_seed_and_pitch_decide(kind: str, request: pytest.FixtureRequest) -> None:
    system: MusicGen = request.getfixturevalue(kind)
    vocal = tone(1.0, 220.0)
    first = system.render(vocal, seed=1)
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    assert system.render(vocal, seed=1).tobytes() == first.tobytes()
    assert torch.equal(torch.rand(4), wanted)  # others' random numbers are left alone
    assert system.render(vocal, seed=2).tobytes() != first.tobytes()
    assert (
        system.render(tone(1.0, 311.0), seed=1).tobytes() != first.tobytes()
    )  # the vocal's pitch conditions it
    assert np.array_equal(system.render(0.5 * vocal, seed=1), first)  # and its level does not
    assert np.array_equal(first[0], first[1]) == (kind == "musicgen")


def test_each_window_goes_on_from_the_last_tokens_of_the_one_before(
    musicgen: MusicGen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 tokens 40 are shared: 238 tokens are 0 to 100, 60 to 160, 120 to 220 and 180 to 238."""
    windows: list[Any] = []
    original = musicgen._window

    def recorded(voice: Any, frames: int, prompt: Any) -> Any:
        audio, tokens = original(voice, frames, prompt)
        windows.append((prompt, tokens))
        return audio, tokens

    monkeypatch.setattr(musicgen, "_window", recorded)
    musicgen.render(tone(4.75, 220.0), seed=1)
    prompts, tokens = zip(*windows, strict=True)
    assert [part.shape for part in tokens] == [(4, 100)] * 3 + [(4, 58)]
    assert prompts[0] is None
    for before, prompt, after in zip(tokens, prompts[1:], tokens[1:], strict=False):
        assert torch.equal(prompt, before[:, -40:])
        assert torch.equal(after[:, :40], before[:, -40:])
        assert not torch.equal(after[:, 40:58], before[:, 42:60])


def test_tokens_come_out_of_the_librarys_own_pattern(musicgen: MusicGen, stereo: MusicGen) -> None:
    for channels, system in ((1, musicgen), (2, stereo)):
        tokens = torch.randint(32, (4 * channels, 20))
        begun = torch.cat([torch.full((4 * channels, 1), 32), tokens], dim=1)
        _, pattern = system.network.decoder.build_delay_pattern_mask(begun, pad_token_id=32, max_length=24)
        assert torch.equal(undelay(pattern, 20, channels), tokens)


def test_a_very_short_or_silent_vocal_is_no_trouble(musicgen: MusicGen) -> None:
    for samples in (1, 2_000):
        made = musicgen.render(np.zeros((2, samples), np.float32), seed=1)
        assert samples <= made.shape[1] < samples + SAMPLE_RATE // 50
        assert np.isfinite(made).all()


def test_windows_of_the_papers_track() -> None:
    """47.55 s at 50 tokens a second: as in the authors' code, 30 s and then from 18 s on."""
    assert windows_of(2378, 1500, 600) == [range(1500), range(900, 2378)]
    assert windows_of(1500, 1500, 600) == [range(1500)]
    assert windows_of(1, 1500, 600) == [range(1)]
    assert windows_of(2401, 1500, 600) == [range(1500), range(900, 2400), range(1800, 2401)]
    assert windows_of(31, 10, 0) == [range(10), range(10, 20), range(20, 30), range(30, 31)]


def test_fading_keeps_what_both_agree_on_and_is_linear_elsewhere() -> None:
    ones, places = torch.ones(1, 10), [range(10), range(5, 15)]
    assert torch.allclose(crossfade([ones, ones], places), torch.ones(1, 15))
    into = crossfade([ones, 3 * ones], places)
    assert torch.allclose(into[0], torch.tensor([1.0] * 5 + [1.0, 1.5, 2.0, 2.5, 3.0] + [3.0] * 5))


OPEN = StableAudioOpenConfig(prompt="pop with drums", steps=3)
LONGEST = OPEN_FRAMES * 2048


@pytest.fixture(scope="module")
def open_folder(weights: dict[str, Path]) -> Path:
    return weights["stable-audio-open"]


@pytest.fixture(scope="module")
def open_system(open_folder: Path) -> StableAudioOpen:
    return StableAudioOpen(str(open_folder), OPEN, CPU)


@pytest.fixture
def copied_open(open_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(open_folder, tmp_path / "model"))


def test_it_is_what_the_librarys_own_pipeline_gives(open_system: StableAudioOpen, open_folder: Path) -> None:
    with quiet_libraries():
        from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline

        pipeline: Any = StableAudioPipeline.from_pretrained(open_folder)
        wanted = pipeline(
            "pop with drums", num_inference_steps=3, audio_end_in_s=30_000.5 / SAMPLE_RATE,
            generator=torch.Generator().manual_seed(5),
        ).audios[0]  # fmt: skip
    made = open_system.render(voice(30_000), seed=5)
    assert made.shape == (2, 30_000)
    assert np.array_equal(made, wanted.numpy())


def test_seed_and_text_decide_and_the_vocal_does_not(open_system: StableAudioOpen, open_folder: Path) -> None:
    first = open_system.render(voice(30_000), seed=1)
    assert np.array_equal(open_system.render(voice(30_000, level=0.01), seed=1), first)
    assert not np.array_equal(open_system.render(voice(30_000), seed=2), first)
    other = StableAudioOpen(str(open_folder), OPEN.model_copy(update={"prompt": "a b c"}), CPU)
    assert not np.array_equal(other.render(voice(30_000), seed=1), first)
    assert open_system.conditioning == "text"


def test_it_is_as_long_as_the_vocal_and_a_longer_one_is_refused(open_system: StableAudioOpen) -> None:
    for samples in (1, 40_001, LONGEST - 1):
        assert open_system.render(voice(samples), seed=0).shape == (2, samples)
    assert open_system.render(voice(LONGEST + SAMPLE_RATE // 5), seed=0).shape == (2, LONGEST)
    with pytest.raises(InputError, match=r"lasts 2\.00 s, and Stable Audio Open makes 1\.49 s at most"):
        open_system.render(voice(2 * SAMPLE_RATE), seed=0)


def test_a_part_without_a_tensor_is_named(copied_open: Path) -> None:
    """diffusers would fill the gap with random numbers."""
    part = "transformer"
    file = next((copied_open / part).glob("*.safetensors"))
    state = load_file(file)
    lost = min(name for name in state if "weight" in name)
    del state[lost]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(MissingPartError, match=rf"{part}: .*{re.escape(lost)}"):
        StableAudioOpen(str(copied_open), OPEN, CPU)
