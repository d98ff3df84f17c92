"""The benchmarks measure what they say: at a small size every figure is there, and follows from others."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import exactness, generation, loader, network, pipeline, weights
from benchmarks.loader import noise, write_noise
from samuel.checkpoint import TrainedModel, load_model
from samuel.codecs import load_codec
from samuel.config import CodecConfig, SamplingConfig
from samuel.device import Batcher
from samuel.errors import DatasetError
from samuel.model.diffusion import CosineSchedule
from samuel.model.unet import SamuelUNet, parameter_count, summary
from samuel.popdb import stages
from samuel.popdb.parts import Parts
from samuel.separators import load_separator
from tests.popdb.latents import small_settings
from tests.weights import SMALL_AUTOENCODER

CPU = torch.device("cpu")


def numbers(figure: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", figure)]


# The network and its training.


def test_the_network_is_measured_against_a_product_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "FRAMES", 64)
    settings = small_settings(tmp_path)
    unet = SamuelUNet(settings.model, settings.diffusion)
    rows = dict(network.network_rows(settings, CPU))
    assert rows["parameters"] == f"{parameter_count(unet):,}"
    assert rows["2048³ product"].endswith("GFLOP/s")
    assert "training step, batch 16 × 64 frames" in rows  # the paper's, whatever the settings say
    _, gflop, _ = numbers(rows["forward, batch 2 × 64 frames"])
    assert gflop == pytest.approx(2 * summary(unet, 64)[-1].flops / 1e9, abs=0.06)


# Full-size parts with random weights, here a thousandth of their size.


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"channels": 8, "nfft": 2048, "t_layers": 1, "t_heads": 2, "bottom_channels": 16, "segment": 2.0}
    monkeypatch.setattr(weights, "HTDEMUCS", weights.HTDEMUCS | small)
    monkeypatch.setattr(weights, "AUTOENCODER", SMALL_AUTOENCODER)


@pytest.mark.usefixtures("tiny")
def test_the_pipeline_measures_official_networks_and_both_at_once_make_the_same(tmp_path: Path) -> None:
    own = pipeline.full_size_settings(tmp_path, small_settings(tmp_path))
    assert "random shifts=0" in load_separator(own.separator, CPU).identity
    songs = pipeline.downloaded(Parts(own), 2, 3.0)
    rows = dict(pipeline.stage_rows(own, songs, CPU))
    for stage in ("separation, with disk", "encoding of both stems, with disk"):
        assert numbers(rows[stage])[0] > 0
    pipeline.both_at_once(songs, pipeline.prepared(own.model_copy(update={"data": tmp_path / "again"})))
    latents = [
        {path.parent.name: path.read_bytes() for path in root.glob("latents/*/*.safetensors")}
        for root in (own.data, tmp_path / "again")
    ]
    assert latents[0] == latents[1]
    assert len(latents[0]) == 2


DEVIATIONS = {"separation against apply_model": 1e-5, "encoding against one pass": 1e-4}


@pytest.mark.usefixtures("tiny")
def test_the_deviations_are_those_of_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exactness.FRAMES, "cpu", 270)
    monkeypatch.setattr(exactness, "ROUNDS", 1)
    rows = dict(exactness.rows(small_settings(tmp_path)))
    assert all(float(rows[what].split()[2].removesuffix(",")) < most for what, most in DEVIATIONS.items())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_full_size_the_deviations_are_those_of_rounding(tmp_path: Path) -> None:
    def parameters(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # htdemucs and the pretransform of Stable Audio Open 1.0, as their own reports count them.
    assert parameters(weights.random_htdemucs()) == pytest.approx(41.98e6, rel=0.02)
    assert parameters(weights.random_autoencoder()) == pytest.approx(156.1e6, rel=0.001)
    rows = dict(exactness.rows(small_settings(tmp_path)))
    assert all(float(rows[what].split()[2].removesuffix(",")) < most for what, most in DEVIATIONS.items())


@pytest.mark.gpu
@pytest.mark.usefixtures("tiny")
def test_on_a_gpu_what_shares_a_batch_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = small_settings(tmp_path).model_copy(update={"device": "cuda"})
    digests = []
    for hand in (1, 4):
        own = pipeline.full_size_settings(tmp_path, given.model_copy(update={"songs_in_hand": hand}))
        parts = pipeline.prepared(own.model_copy(update={"data": tmp_path / str(hand)}))
        encoded = stages.encode_songs(stages.separate_songs(pipeline.downloaded(parts, 4, 8.0), parts), parts)
        digests.append([outcome.artifact and outcome.artifact.sha256 for outcome in encoded])
    assert digests[0] == digests[1]
    monkeypatch.setitem(exactness.FRAMES, "cuda", 1040)
    rows = dict(exactness.rows(given))
    assert all(float(rows[what].split()[2].removesuffix(",")) < most for what, most in DEVIATIONS.items())


@pytest.mark.gpu
def test_on_a_gpu_a_batch_that_does_not_fit_is_halved() -> None:
    device = torch.device("cuda")
    room = torch.cuda.get_device_properties(device).total_memory // 64
    torch.cuda.set_per_process_memory_fraction(1 / 64)
    try:
        grow = Batcher(lambda batch: batch.repeat(1, 4).sum(1, keepdim=True), device, size=64)
        items = [torch.ones(room // 4 // 64) for _ in range(64)]
        assert [float(result) for result in grow(items)] == pytest.approx([4.0 * len(items[0])] * 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# The dataset of noise.


def test_the_noise_is_a_sound_dataset_and_ratios_are_those_of_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = noise(11, 64)
    popdb = write_noise(tmp_path / "popdb", latents)
    for stream, read in enumerate(popdb.read(popdb.index)):
        assert torch.equal(read, torch.from_numpy(latents[:, stream]))
    assert loader.verify_figure(popdb, latents.nbytes).endswith(" MB/s")
    shard = popdb.root / popdb.index[0]["shard"]
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(DatasetError, match=shard.name):
        loader.verify_figure(popdb, 1)
    monkeypatch.setattr(loader, "REPEATS", 1)
    rows = dict(loader.rows(None, pairs=40, frames=64, opened=30))
    [rate] = numbers(rows["batches of 16, shuffled, float32"])
    for name in ("a copy made float32", "a copy of their float16", "a copy of their float32"):
        ratio, base = numbers(rows[f"  against {name}"])
        assert ratio == pytest.approx(rate / base, abs=0.006)


# From a vocal to an accompaniment: windows of 64 frames, twelve timesteps.


def test_the_papers_way_is_a_plain_loop_of_two_calls_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = small_settings(tmp_path, diffusion={"timesteps": 12})
    mel = load_codec(CodecConfig(), CPU).info
    model = load_model(generation.write_random_model(tmp_path / "model", short, mel), CPU)
    sizes: list[int] = []
    forward = model.network.forward

    def counting(x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        sizes.append(len(x_t))
        return forward(x_t, t, vocal)

    monkeypatch.setattr(model.network, "forward", counting)
    config, vocal = SamplingConfig(guidance_scale=3.0, seed=5), torch.randn(1, 64, 64)
    drawn = generation.sample_as_the_paper(vocal, model, config)
    assert sizes == [1] * 24
    assert torch.allclose(drawn, by_ho(vocal, model, forward), atol=1e-3, rtol=1e-3)


def by_ho(vocal: Tensor, model: TrainedModel, forward: Callable[..., Tensor]) -> Tensor:
    """DDPM as its paper has it (arXiv 2006.11239, algorithm 2, eq. 6, 7), guidance 3, seed 5."""
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
            noise = torch.randn(vocal.shape, generator=generator) if step else torch.zeros_like(x)
            x = (mean + ((1 - before) / (1 - now) * beta).sqrt() * noise).float()
    return x
