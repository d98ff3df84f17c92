import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from benchmarks import generation
from benchmarks.generation import (
    Command,
    generation_rows,
    peak_resident_bytes,
    sample_as_the_paper,
    seam_figure,
    singing,
    write_random_model,
)
from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.checkpoint import TrainedModel, load_model
from samuel.codecs import load_codec
from samuel.config import CodecConfig, SamplingConfig, Settings
from samuel.errors import CheckpointError
from samuel.model.windows import Windowed, window_starts
from samuel.synthetic.song import compose
from tests.model.conftest import awake
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")
MEL = load_codec(CodecConfig(), CPU).identity


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Windows of 64 frames, twelve timesteps."""
    return small_settings(tmp_path, diffusion={"timesteps": 12})


@pytest.fixture
def model(tmp_path: Path, settings: Settings) -> TrainedModel:
    return load_model(write_random_model(tmp_path / "model", settings, MEL), CPU)


def numbers(figure: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", figure)]


def test_every_figure_is_there_and_ratios_are_those_of_the_times(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(generation, "in_its_own_process", generation.run)
    rows = dict(generation_rows(settings, song_s=8.0, long_s=10.0))
    assert list(tmp_path.iterdir()) == []
    assert rows["model"] == "random weights"
    [paper_s] = numbers(rows["2.97 s of latents, ddpm, 12 steps, two calls each"])
    chunk_s, less = numbers(rows["2.97 s of latents, dpmsolver++, 3 steps"])
    assert less == pytest.approx(paper_s / chunk_s, rel=0.2)  # of rounded times
    song_s, overlap = numbers(rows["8.03 s of latents in windows"])
    assert overlap == pytest.approx(song_s / 173 / (chunk_s / 64), rel=0.2)
    assert numbers(rows["  change at their ends"])[-1] == 2 * (len(window_starts(173, 64, 16)) - 1)
    for duration_s in (8, 10):
        whole_s, *stages_s = numbers(rows[f"vocal file of {duration_s} s"])
        assert 0 < sum(stages_s) <= whole_s + 0.05 * len(stages_s)  # rounded
    assert all(f"{stage} " in rows["vocal file of 8 s"] for stage in ("encode", "sample", "decode", "write"))
    assert rows["  peak memory"].endswith((" GiB", "not measured here"))


def test_a_model_of_another_codec_is_refused_before_anything_is_measured(
    settings: Settings, tmp_path: Path
) -> None:
    place = write_random_model(tmp_path / "model", settings, "noise/1")
    with pytest.raises(CheckpointError, match="noise/1"):
        next(generation_rows(settings, place))


def test_random_weights_say_something(model: TrainedModel) -> None:
    x, vocal = torch.randn(2, 2, 64, 64)
    t = torch.tensor([0, 11])
    v = model.network(x, t, vocal)
    assert 0.05 < float(v.std()) < 20
    assert not torch.equal(v, model.network(x, t, -vocal))


def test_the_papers_way_is_a_plain_loop_of_two_calls_a_step(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = model.network.forward

    def counting(x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        sizes.append(len(x_t))
        return forward(x_t, t, vocal)

    monkeypatch.setattr(model.network, "forward", counting)
    config = SamplingConfig(guidance_scale=3.0, seed=5)
    vocal = torch.randn(1, 64, 64)
    drawn = sample_as_the_paper(vocal, model, config)
    assert sizes == [1] * 24
    assert torch.allclose(drawn, by_ho(vocal, model, forward), atol=1e-3, rtol=1e-3)


def by_ho(vocal: Tensor, model: TrainedModel, forward: Callable[..., Tensor]) -> Tensor:
    """DDPM as its paper has it (arXiv 2006.11239, algorithm 2, eq. 6, 7), guidance 3, seed 5."""
    from samuel.model.diffusion import CosineSchedule

    alpha_bar = CosineSchedule(12, model.diffusion.cosine_offset).alpha_bar.double()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(vocal.shape, generator=generator)
    condition = (vocal - model.normaliser.vocal_mean) / model.normaliser.vocal_std
    with torch.no_grad():
        for step in reversed(range(12)):
            t = torch.tensor([step])
            null = forward(x, t, None)
            v = null + 3 * (forward(x, t, condition) - null)
            now, before = alpha_bar[step], alpha_bar[step - 1] if step else torch.tensor(1.0).double()
            beta = 1 - now / before
            x0 = now.sqrt() * x - (1 - now).sqrt() * v
            mean = (
                before.sqrt() * beta / (1 - now) * x0 + (now / before).sqrt() * (1 - before) / (1 - now) * x
            )
            variance = (1 - before) / (1 - now) * beta
            noise = torch.randn(vocal.shape, generator=generator) if step else torch.zeros_like(x)
            x = (mean + variance.sqrt() * noise).float()
    return x


def test_a_jump_where_windows_begin_is_told() -> None:
    windows = Windowed(awake(), frames=64, overlap=16)
    starts = window_starts(300, 64, 16)
    ramp = torch.arange(300.0)
    smooth = ramp.expand(1, 3, 300).clone()
    assert seam_figure(smooth, windows) == f"1.000 ± 0.000 of that elsewhere, {2 * len(starts) - 2} places"
    jumps = smooth.clone()
    for start in starts[1:]:
        jumps[..., start:] += 2
    for start in starts[:-1]:
        jumps[..., start + 64 :] += 4
    assert seam_figure(jumps, windows).startswith("4.000 ± 0.000")  # half of them 3, half of them 5


def test_the_spread_is_that_of_as_many_places_anywhere() -> None:
    windows = Windowed(awake(), frames=64, overlap=16)
    generator = torch.Generator().manual_seed(0)
    ratios, spreads = [], []
    for _ in range(200):
        steps = torch.rand(1, 1, 1000, generator=generator)
        ratio, spread, _ = numbers(seam_figure(steps.cumsum(-1), windows))
        ratios.append(ratio)
        spreads.append(spread)
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)
    assert np.std(ratios) == pytest.approx(np.mean(spreads), rel=0.15)


def test_one_window_has_no_seams() -> None:
    assert seam_figure(torch.zeros(1, 3, 64), Windowed(awake(), 64, 16)).startswith("not measured")


def test_a_voice_as_long_as_wanted() -> None:
    voice = compose(seed=0, index=0).vocals
    long = singing(150.0)
    assert long.shape == (2, 150 * SAMPLE_RATE)
    assert np.array_equal(long[:, : voice.shape[1]], voice[:, : long.shape[1]])
    assert np.abs(long[:, -30 * SAMPLE_RATE :]).max() > 0.1


def test_stages_are_timed_each_and_the_files_are_there(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_random_model(tmp_path / "model", settings, MEL)
    vocal, output = tmp_path / "vocal.wav", tmp_path / "out" / "band.wav"
    write_wav(vocal, singing(3.5))
    pauses = {"encode": 0.0, "sample": 0.06, "decode": 0.03}
    generate = generation.generate

    def slow(request: Any, model: Any, codec: Any, on_progress: Callable[[str, int, int], object]) -> Any:
        takes = generate(request, model, codec, lambda *_: None)
        for _ in range(2):
            for stage, pause_s in pauses.items():
                time.sleep(pause_s)
                on_progress(stage, 1, 2)
        return takes

    monkeypatch.setattr(generation, "generate", slow)
    cost = generation.run(Command(model, settings, vocal, output))
    assert cost.stages_s["sample"] == pytest.approx(0.12, abs=0.05)
    assert cost.stages_s["decode"] == pytest.approx(0.06, abs=0.05)
    assert read_wav(output).shape == (2, round(3.5 * SAMPLE_RATE))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")
def test_the_peak_holds_what_was_there_once() -> None:
    before = psutil.Process().memory_info().rss
    held = np.ones(2**28, np.uint8)
    del held
    peak = peak_resident_bytes()
    assert peak is not None
    assert peak >= before + 2**28 - 2**24


@pytest.mark.slow
def test_a_process_of_its_own_does_not_hold_what_this_one_holds(tmp_path: Path, settings: Settings) -> None:
    held = np.ones(2**31, np.uint8)
    model = write_random_model(tmp_path / "model", settings, MEL)
    [(name, figure), (_, peak)] = generation.file_rows(model, settings, tmp_path, 8.0)
    assert name == "vocal file of 8 s"
    whole_s, *stages_s = numbers(figure)
    assert 0 < sum(stages_s) < whole_s - 1  # the start of the process comes on top
    if Path("/proc/self/status").exists():
        assert 0.2 < numbers(peak)[0] < 1.8
    assert read_wav(tmp_path / "accompaniment.wav").shape == (2, 8 * SAMPLE_RATE)
    assert held[-1]


@pytest.mark.parametrize(("device", "measured"), [("cpu", False), ("cuda", True)])
def test_what_needs_a_gpu_is_measured_on_a_gpu_alone(
    device: str, measured: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "resolve_device", lambda _: SimpleNamespace(type=device))
    monkeypatch.setattr(generation, "device_name", lambda _: device)
    monkeypatch.setattr(generation, "load_codec", lambda *_: SimpleNamespace(identity=MEL))
    load = generation.load_model
    monkeypatch.setattr(generation, "load_model", lambda folder, _: load(folder, CPU))
    for rows in ("latents_rows", "file_rows", "gpu_rows"):
        monkeypatch.setattr(generation, rows, lambda *_, rows=rows: [(rows, "")])
    names = [name for name, _ in generation_rows(settings)]
    expected = ["device", "model", "latents_rows", "file_rows", "file_rows"]
    assert names == [*expected, *(["gpu_rows"] if measured else [])]


@pytest.mark.gpu
def test_gpu_figures_are_plausible(settings: Settings, model: TrainedModel, tmp_path: Path) -> None:
    own = settings.model_copy(update={"device": "cuda"})
    on_gpu = load_model(write_random_model(tmp_path / "gpu", own, MEL), torch.device("cuda"))
    rows = list(generation.gpu_rows(on_gpu, own, tmp_path, 10.0))
    assert [name for name, _ in rows] == ["2.97 s by the full-size VAE", "10.00 s by the full-size VAE"]
    for _, figure in rows:
        whole_s, peak_gb = numbers(figure)
        assert whole_s > 0
        assert peak_gb > 0.6  # the weights alone
