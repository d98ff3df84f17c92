import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import generation
from benchmarks.generation import generation_rows, sample_as_the_paper, seam_figure, write_random_model
from samuel.checkpoint import TrainedModel, load_model
from samuel.codecs import load_codec
from samuel.config import CodecConfig, SamplingConfig, Settings
from samuel.model.windows import Windowed, window_starts
from tests.model.conftest import awake
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")
MEL = load_codec(CodecConfig(), CPU).info


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
