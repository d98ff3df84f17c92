"""The benchmarks measure what they say: at a small size every figure is there, and follows from others."""

import json
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks import (
    exactness,
    generation,
    loader,
    network,
    pipeline,
    samplers,
    scoring,
    separation,
    threads,
    training,
    weights,
)
from benchmarks.__main__ import benchmarks
from benchmarks.loader import noise, write_noise
from samuel.artifacts import read_jsonl
from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.checkpoint import TrainedModel, load_model, save_model
from samuel.codecs import load_codec
from samuel.config import CodecConfig, DiffusionConfig, SamplingConfig, SeparatorConfig, Settings
from samuel.device import Batcher
from samuel.errors import DatasetError
from samuel.model.diffusion import CosineSchedule
from samuel.model.unet import SamuelUNet, parameter_count, summary
from samuel.model.windows import Windowed, window_starts
from samuel.popdb import stages
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.popdb.parts import Parts
from samuel.separators import load_separator
from samuel.synthetic.song import SyntheticSong, compose
from samuel.train import Training
from tests.codecs.music import bf16_is_sound
from tests.evaluate.small_audiobox import small_audiobox
from tests.model.conftest import SMALL, awake
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")


def numbers(figure: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", figure)]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a benchmark does in a process of its own, which would build networks of the full size."""
    for module in (generation, scoring):
        monkeypatch.setattr(module, "in_its_own_process", lambda work, *given: work(*given))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


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


def test_the_bare_step_is_a_step(tmp_path: Path) -> None:
    popdb = write_noise(tmp_path / "popdb", noise(4, 64))
    own = Training(popdb, small_settings(tmp_path), tmp_path / "run")
    before = [parameter.clone() for parameter in own.network.parameters()]
    training.bare_step(own)()
    after = list(own.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_workloads_are_timed_beside_busy_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WAYS", {"samuel": {"SAMUEL_FIRST": "1"}})
    monkeypatch.setattr(threads, "LIMITS", {1: 1e9})
    _, (what, figure), (_, quiet) = threads.rows(None, seconds=0.05)
    assert (what, figure) == (
        "1 busy, samuel",
        "training step 1.00 ×, convolution 1.00 ×; at most 1e+09 ×: kept",
    )
    assert min(numbers(quiet)) > 0


# Full-size parts with random weights, here a thousandth of their size.


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"channels": 8, "nfft": 2048, "t_layers": 1, "t_heads": 2, "bottom_channels": 16, "segment": 2.0}
    monkeypatch.setattr(weights, "HTDEMUCS", weights.HTDEMUCS | small)
    monkeypatch.setattr(weights, "AUTOENCODER", weights.autoencoder_config(4, (1,) * 5))


@pytest.mark.usefixtures("tiny")
def test_the_pipeline_measures_official_networks_and_both_at_once_make_the_same(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    own = pipeline.full_size_settings(tmp_path, settings)
    assert "random shifts=0" in load_separator(own.separator, CPU).identity
    assert load_codec(own.codec, CPU).encode(torch.zeros(1, 2, 4096)).shape == (1, 64, 2)
    songs = pipeline.downloaded(Parts(own), 2, 4.0)
    rows = dict(pipeline.stage_rows(own, songs, CPU))
    for stage in ("separation, with disk", "encoding of both stems, with disk"):
        assert numbers(rows[stage])[0] > 0.5
    assert rows["both at once, and GPU utilisation"] == "not measured: no GPU"
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
    monkeypatch.setitem(exactness.FRAMES, "cpu", 280)
    monkeypatch.setattr(exactness, "ROUNDS", 1)
    rows = dict(exactness.rows(small_settings(tmp_path), bf16=True))
    for what, most in DEVIATIONS.items():
        assert float(rows[what].split()[2].removesuffix(",")) < most
    for what in ("separation in bf16", "encoding in bf16") if bf16_is_sound() else ():
        assert 0.01 < float(rows[what].removesuffix("% error")) < 5


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


def test_the_noise_is_a_sound_dataset_and_every_figure_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = noise(11, 64)
    popdb = write_noise(tmp_path / "popdb", latents)
    for stream, read in enumerate(popdb.read(popdb.index)):
        assert torch.equal(read, torch.from_numpy(latents[:, stream]))
    assert popdb.info["counts"]["train"] == 11
    assert loader.verify_figure(popdb, latents.nbytes).endswith(" MB/s")
    shard = popdb.root / popdb.index[0]["shard"]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=shard.name):
        loader.verify_figure(popdb, 1)

    rows = dict(loader.rows(None, pairs=40, frames=64, opened=30))
    [rate] = numbers(rows["batches of 16, shuffled, float32"])
    for name in ("a copy made float32", "a copy of their float16", "a copy of their float32"):
        ratio, base = numbers(rows[f"  against {name}"])
        assert ratio == pytest.approx(rate / base, abs=0.006)
    assert rows["dataset"] == "40 pairs of 64 frames, 1 MB"
    best_s, first_s = numbers(rows["opening 30 pairs"])
    assert 0 < min(best_s, first_s) < 1
    assert rows["  normalised, read by 2 workers"].endswith(" pairs/s")
    assert numbers(rows["memory growth over an epoch of 40"])[0] < 100


# From a vocal to an accompaniment: windows of 64 frames, twelve timesteps.


@pytest.fixture
def short(tmp_path: Path) -> Settings:
    return small_settings(tmp_path, diffusion={"timesteps": 12})


@pytest.mark.usefixtures("in_this_process")
def test_every_figure_of_generation_is_there_and_ratios_are_those_of_the_times(short: Settings) -> None:
    rows = dict(generation.rows(short, song_s=8.0, long_s=10.0))
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
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


def test_the_papers_way_is_a_plain_loop_of_two_calls_a_step(
    tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_jump_where_windows_begin_is_told_from_chance() -> None:
    windows = Windowed(awake(), frames=64, overlap=16)
    starts = window_starts(300, 64, 16)
    smooth = torch.arange(300.0).expand(1, 3, 300).clone()
    places = 2 * len(starts) - 2
    assert generation.seam_figure(smooth, windows) == f"1.000 ± 0.000 of that elsewhere, {places} places"
    jumps = smooth.clone()
    for start in starts[1:]:
        jumps[..., start:] += 2
    for start in starts[:-1]:
        jumps[..., start + 64 :] += 4
    assert generation.seam_figure(jumps, windows).startswith(
        "4.000 ± 0.000"
    )  # half of them 3, half of them 5
    generator = torch.Generator().manual_seed(0)
    steps = (torch.rand(1, 1, 1000, generator=generator).cumsum(-1) for _ in range(200))
    ratios, spreads, _ = zip(*(numbers(generation.seam_figure(x, windows)) for x in steps), strict=True)
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)
    assert np.std(ratios) == pytest.approx(np.mean(spreads), rel=0.15)


# Samplers.

PLANNED = [SamplingConfig(steps=steps, seed=seed) for steps in (2, 3) for seed in range(2)]


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return write_noise(tmp_path / "popdb", noise(5, 64))


def test_what_is_recorded_is_not_drawn_again(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusion, normaliser = DiffusionConfig(timesteps=50), Normaliser.of(popdb.stats)
    model = TrainedModel(awake().eval(), normaliser, diffusion, popdb.codec, frames=64, sha256="a" * 64)
    drawn: list[SamplingConfig] = []
    draw = samplers._draw

    def keep(*arguments: Any) -> dict[str, Any]:
        drawn.append(arguments[-1])
        return draw(*arguments)

    monkeypatch.setattr(samplers, "_draw", keep)
    record = tmp_path / "samplers.jsonl"
    first = next(iter(samplers.draws(model, popdb, PLANNED, 32, record)))  # and then it is killed
    rows = list(samplers.draws(model, popdb, PLANNED, 32, record))
    assert drawn == PLANNED
    assert rows[0] == first
    assert read_jsonl(record) == rows == list(samplers.draws(model, popdb, PLANNED, 32, record))
    assert drawn == PLANNED
    [again] = samplers.draws(model, popdb, PLANNED[:1], 32, tmp_path / "other.jsonl")
    assert again["frechet"] == first["frechet"] != rows[1]["frechet"]  # a seed gives its distance again


def test_items_are_stretches_of_all_pairs(popdb: Popdb, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = torch.cat([stream.float() for stream in popdb.read(popdb.index)], dim=-1)  # (5, C, 2 · 64)
    for stream, latents in enumerate(samplers.held_out(popdb, 32)):
        halves = [pair[:, 64 * stream :][:, at : at + 32] for pair in expected for at in (0, 32)]
        assert torch.equal(latents, torch.stack(halves))
    monkeypatch.setattr(samplers, "ITEMS", 3)
    vocal, _ = samplers.held_out(popdb, 32)
    assert torch.equal(vocal, torch.stack([expected[0, :, :32], expected[2, :, :32], expected[4, :, 32:64]]))


def test_the_command_prints_every_setting_and_means_with_ratios_to_the_reference(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "CANDIDATES", (("unipc", 2),))
    monkeypatch.setattr(samplers, "REFERENCE", ("ddpm", 20))
    record = {
        "model": SMALL.model_dump(mode="json"),
        "diffusion": {"timesteps": 20},
        "stats": popdb.stats,
        "codec": popdb.info["codec"],
        "frames": 64,
    }
    save_model(tmp_path / "model", awake().state_dict(), record)
    (tmp_path / "settings.json").write_text(json.dumps({"popdb": {"path": str(popdb.root)}, "device": "cpu"}))
    drawn = tmp_path / "samplers.jsonl"
    files = ["--settings", tmp_path / "settings.json", "--model", tmp_path / "model", "--record", drawn]
    command = ["samplers", *map(str, files), "--frames", "32", "--reference-seeds", "1", "--seeds", "2"]
    *lines, unipc, ddpm = CliRunner().invoke(benchmarks, command).output.splitlines()
    assert [line.split(" steps")[0] for line in lines] == ["unipc, 2", "unipc, 2", "ddpm, 20"]
    first, second, reference = [row["frechet"] for row in read_jsonl(drawn)]
    mean = (first + second) / 2
    spread = abs(first - second) / math.sqrt(2)
    assert (
        unipc.split("  ")[-1].strip()
        == f"{mean:.3f} ± {spread:.3f}, {mean / reference:.3f} of the reference's"
    )
    assert ddpm.split("  ")[-1].strip() == f"{reference:.3f}, 1.000 of the reference's"


# Scorers and separators.


@pytest.mark.usefixtures("in_this_process")
def test_both_ways_score_alike_and_every_figure_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ROUNDS", 1)
    with small_audiobox(tmp_path):
        rows = dict(scoring.rows(Settings(device="cpu"), 2, 11.0))
    assert rows["tracks"] == "2 of 11.00 s"
    window = r"\d+\.\d\d s a window, \d+\.\d\d GiB of the (process|GPU)"
    assert re.fullmatch(window, rows["AudioBox by its own command"])
    assert re.fullmatch(window + r".*, \d+\.\d\d × the time", rows["AudioBox, batched here"])
    assert float(rows["  largest difference of a score"]) < 1e-4
    assert re.fullmatch(r"\d+\.\d s, \d+\.\d\d GiB", rows["all but AudioBox, 2 tracks of 11.00 s"])
    one = [{"PQ": 1.0, "PC": 2.0, "CE": 3.0, "CU": 4.0}] * 2
    assert scoring.difference(one, [one[0], {"PQ": 1.5, "PC": 2.0, "CE": 3.0, "CU": 3.0}]) == 1.0


def test_the_folders_are_those_of_true_stems(tmp_path: Path) -> None:
    scoring.write_folders(tmp_path, 2, 3.0)
    vocal, true = (read_wav(tmp_path / name / "001.wav") for name in ("vocals", "true"))
    assert vocal.shape == true.shape == (2, 3 * SAMPLE_RATE)
    mix = compose(seed=7, index=1).mix
    first = (mix.shape[1] - vocal.shape[1]) // 2
    assert np.allclose(vocal + true, mix[:, first : first + vocal.shape[1]], atol=1e-4)
    assert np.array_equal(read_wav(tmp_path / "shifted" / "000.wav"), true)


SUNG = ((4.0, 12.0), (20.0, 40.0), (47.0, 48.0))


def test_a_known_leak_is_measured_on_both_stems() -> None:
    # Two bars that return for 48 s, and a gliding tone in the stretches `SUNG`.
    rng, time_s = np.random.default_rng(0), np.arange(48 * SAMPLE_RATE) / SAMPLE_RATE
    decay = np.exp(-(np.arange(2 * SAMPLE_RATE) % 22_050) / 3000)
    bars = np.tile(0.2 * rng.normal(size=(2, 2 * SAMPLE_RATE)) * decay, (1, 24)).astype(np.float32)
    gate = sum((time_s >= start_s) & (time_s < end_s) for start_s, end_s in SUNG)
    voice = 0.2 * np.sin(2 * np.pi * 400 * time_s + 60 * np.sin(2 * np.pi * 0.37 * time_s)) * gate
    song = SyntheticSong("made up", np.tile(voice, (2, 1)).astype(np.float32), bars, 120.0, "A minor", SUNG)
    assert separation.compare(song, song.vocals).share_error < 0.01
    # Of the accompaniment a tenth is taken for voice: it stands 20 dB lower in the vocals, where the two are
    # nearly orthogonal, and the rest of the accompaniment is but scaled.
    leak: Audio = (0.1 * song.accompaniment).astype(np.float32)
    found = separation.compare(song, song.vocals + leak)
    ratio_db = 10 * math.log10(np.square(song.vocals).sum() / np.square(song.accompaniment).sum())
    assert found.vocals_db == pytest.approx(ratio_db + 20, abs=0.1)
    assert found.vocals_gain_db == pytest.approx(20, abs=0.1)
    assert found.accompaniment_db > 100
    nothing = separation.compare(song, song.mix)
    assert nothing.vocals_gain_db == 0.0
    assert nothing.accompaniment_db == -math.inf
    chunk_s = separation.CHUNK_S
    assert found.true_share == pytest.approx((8 + 20 + chunk_s - 47) / chunk_s)


def test_a_row_for_each_separator_and_for_the_truth(tmp_path: Path) -> None:
    absent = SeparatorConfig(name="demucs", repo=tmp_path / "absent")
    rows = dict(separation.rows(Settings(device="cpu", separator=absent), 1))
    assert rows.keys() == {"demucs htdemucs", separation.TRUE_STEMS, "repet"}
    assert re.match("not measured: .*absent", rows["demucs htdemucs"])
    assert rows[separation.TRUE_STEMS].startswith("stems exact, vocal share ")
    assert 0.0 < numbers(rows[separation.TRUE_STEMS])[-1] < 0.08
    vocals_gain, rest_gain = re.findall(r"\(([+-][\d.]+)\)", rows["repet"])
    assert min(float(vocals_gain), float(rest_gain)) > 5
