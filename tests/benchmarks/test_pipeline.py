"""The benchmark of the pipeline: what it writes is official, what it samples is what the driver says."""

from pathlib import Path

import pytest
import torch

from benchmarks import exactness, pipeline, weights
from samuel.codecs import load_codec
from samuel.config import CodecConfig, SeparatorConfig
from samuel.device import Batcher
from samuel.popdb.parts import Parts
from samuel.separators import load_separator
from tests.codecs.music import bf16_is_sound
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")
TINY_DEMUCS = {
    **weights.HTDEMUCS, "channels": 8, "nfft": 2048, "t_layers": 1, "t_heads": 2, "bottom_channels": 16,
    "segment": 2.0,
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's own networks, a thousandth of their size."""
    monkeypatch.setattr(weights, "HTDEMUCS", TINY_DEMUCS)
    small = weights.OOBLECK | {"channels": 4, "c_mults": [1, 1, 1, 1, 1]}
    for part in ("encoder", "decoder"):
        config = weights.AUTOENCODER[part]["config"]  # type: ignore[index]
        monkeypatch.setitem(weights.AUTOENCODER[part], "config", {**config, **small})  # type: ignore[arg-type]


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
def test_the_networks_have_the_published_sizes() -> None:
    # htdemucs and the pretransform of Stable Audio Open 1.0, as their own reports count them.
    assert parameters(weights.random_htdemucs()) == pytest.approx(41.98e6, rel=0.02)
    assert parameters(weights.random_autoencoder()) == pytest.approx(156.1e6, rel=0.001)


@pytest.mark.usefixtures("tiny")
def test_the_weights_are_loaded_as_the_real_ones(tmp_path: Path) -> None:
    weights.write_htdemucs(tmp_path / "demucs")
    weights.write_autoencoder(tmp_path / "vae")
    separator = SeparatorConfig(name="demucs", model="random", repo=tmp_path / "demucs")
    assert "random shifts=0" in load_separator(separator, CPU).identity
    codec = load_codec(CodecConfig(name="stable-audio-open", path=str(tmp_path / "vae")), CPU)
    assert codec.encode(torch.zeros(1, 2, 4096)).shape == (1, 64, 2)


@pytest.mark.usefixtures("tiny")
def test_every_stage_is_measured(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    rows = dict(pipeline.pipeline_rows(settings, songs=2, song_s=4.0))
    assert rows["songs"] == "2 of 4 s, random weights of full size"
    for stage in ("separation, with disk", "encoding of both stems, with disk"):
        assert float(rows[stage].removesuffix(" × real time")) > 0.5
    assert rows["both at once, and GPU utilisation"] == "not measured: no GPU"
    assert rows["peak memory"].endswith("GiB")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny")
def test_both_at_once_makes_what_one_after_the_other_makes(tmp_path: Path) -> None:
    own = pipeline._settings(tmp_path, small_settings(tmp_path))
    parts, again = Parts(own), Parts(own.model_copy(update={"data": tmp_path / "again"}))
    downloaded = pipeline._downloaded(parts, 2, 4.0)
    pipeline._pass_round_trip(parts)
    separated = pipeline.pipeline.separate_songs(downloaded, parts)
    encoded = pipeline.pipeline.encode_songs(separated, parts)
    pipeline._pass_round_trip(again)
    pipeline._both(downloaded, again)
    digests = {path.parent.name: path.read_bytes() for path in tmp_path.glob("again/latents/*/*.safetensors")}
    assert digests == {
        outcome.artifact.folder.name: outcome.artifact.path("latents.safetensors").read_bytes()
        for outcome in encoded
        if outcome.artifact
    }
    assert len(digests) == 2


@pytest.mark.usefixtures("tiny")
def test_the_deviations_are_those_of_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exactness.FRAMES, "cpu", 280)
    monkeypatch.setattr(exactness, "ROUNDS", 1)
    rows = dict(exactness.exactness_rows(small_settings(tmp_path), bf16=True))
    for what, least in {"separation against apply_model": 1e-5, "encoding against one pass": 1e-4}.items():
        assert float(rows[what].split()[2].removesuffix(",")) < least
    for what in ("separation in bf16", "encoding in bf16") if bf16_is_sound() else ():
        assert 0.01 < float(rows[what].removesuffix("% error")) < 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_full_size_the_deviations_are_those_of_rounding(tmp_path: Path) -> None:
    rows = dict(exactness.exactness_rows(small_settings(tmp_path)))
    for what, least in {"separation against apply_model": 1e-5, "encoding against one pass": 1e-4}.items():
        assert float(rows[what].split()[2].removesuffix(",")) < least


@pytest.mark.gpu
@pytest.mark.usefixtures("tiny")
def test_on_a_gpu_the_deviations_are_those_of_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exactness.FRAMES, "cuda", 1040)
    settings = small_settings(tmp_path).model_copy(update={"device": "cuda"})
    rows = dict(exactness.exactness_rows(settings))
    for what, least in {"separation against apply_model": 1e-5, "encoding against one pass": 1e-4}.items():
        assert float(rows[what].split()[2].removesuffix(",")) < least


@pytest.mark.gpu
@pytest.mark.usefixtures("tiny")
def test_on_a_gpu_what_shares_a_batch_changes_no_bit(tmp_path: Path) -> None:
    given = small_settings(tmp_path).model_copy(update={"device": "cuda"})
    digests = []
    for hand in (1, 4):
        own = pipeline._settings(tmp_path, given.model_copy(update={"songs_in_hand": hand}))
        own = own.model_copy(update={"data": tmp_path / str(hand)})
        parts = Parts(own)
        pipeline._pass_round_trip(parts)
        separated = pipeline.pipeline.separate_songs(pipeline._downloaded(parts, 4, 8.0), parts)
        encoded = pipeline.pipeline.encode_songs(separated, parts)
        digests.append([outcome.artifact and outcome.artifact.sha256 for outcome in encoded])
    assert digests[0] == digests[1]


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
