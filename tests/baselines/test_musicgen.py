from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from samuel.audio import SAMPLE_RATE, Audio
from samuel.baselines.pretrained import MusicGen, crossfade, quiet_libraries, undelay, windows_of
from samuel.config import MusicGenConfig

CPU = torch.device("cpu")
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
