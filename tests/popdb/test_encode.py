"""Stems to paired latents."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from samuel.artifacts import Artifact, make_artifact
from samuel.audio import SAMPLE_RATE, Audio, dbfs
from samuel.codecs import load_codec
from samuel.codecs.base import HOP
from samuel.config import CodecConfig
from samuel.errors import SongError
from samuel.popdb.stages import encode_pair, write_stems

FRAMES = 64
CHUNK = FRAMES * HOP
MEL = load_codec(CodecConfig(), torch.device("cpu"))


class Constant:
    """A codec whose every latent is one value."""

    identity = "constant"
    window, decode_reach = 256, 0

    def __init__(self, value: float) -> None:
        self.value = value

    def encode(self, audio: Tensor) -> Tensor:
        return torch.full((1, 64, -(-audio.shape[-1] // HOP)), self.value)

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError


def noise(samples: int, level: float = 0.1, seed: int = 0) -> Audio:
    return (level * np.random.default_rng(seed).standard_normal((2, samples))).astype(np.float32)


def stems_entry(folder: Path, vocals: Audio, accompaniment: Audio) -> Artifact:
    def make(target: Path) -> dict[str, float]:
        return {"stems_scale": write_stems(vocals + accompaniment, vocals, target)}

    return make_artifact(folder, make)


@pytest.mark.parametrize(
    ("samples", "chunks"), [(CHUNK, 1), (3 * CHUNK - 1, 2), (3 * CHUNK, 3), (3 * CHUNK + 5, 3)]
)
def test_whole_chunks_are_kept(tmp_path: Path, samples: int, chunks: int) -> None:
    stems = stems_entry(tmp_path / "stems", noise(samples), noise(samples, seed=1))
    entry = make_artifact(tmp_path / "latents", lambda folder: encode_pair(MEL, stems, FRAMES, folder))
    latents = load_file(entry.path("latents.safetensors"))
    assert set(latents) == {"vocal", "accompaniment"}
    for stream in latents.values():
        assert stream.shape == (chunks, 64, FRAMES)
        assert stream.dtype == torch.float16
    assert [row["start_s"] for row in entry.record["chunks"]] == [
        round(k * CHUNK / SAMPLE_RATE, 4) for k in range(chunks)
    ]


def test_chunks_are_the_song_cut(tmp_path: Path) -> None:
    vocals = noise(2 * CHUNK)
    stems = stems_entry(tmp_path / "stems", vocals, noise(2 * CHUNK, seed=1))
    encode_pair(MEL, stems, FRAMES, tmp_path)
    stored = load_file(tmp_path / "latents.safetensors")["vocal"]
    whole = MEL.encode(torch.from_numpy(vocals)[None])[0].half()
    assert torch.equal(torch.cat(list(stored), dim=1), whole)


def test_both_streams_hold_an_impulse_in_its_frame(tmp_path: Path) -> None:
    frame = FRAMES + 21
    stem = np.zeros((2, 2 * CHUNK), dtype=np.float32)
    stem[:, frame * HOP + 700] = 1.0
    stems = stems_entry(tmp_path / "stems", stem, stem)
    encode_pair(MEL, stems, FRAMES, tmp_path)
    for stream in load_file(tmp_path / "latents.safetensors").values():
        assert int(stream[1].float().sum(0).argmax()) == 21
        assert stream[0].unique().numel() == 1


def test_chunks_are_described(tmp_path: Path) -> None:
    vocals = noise(2 * CHUNK)
    vocals[:, CHUNK:] = 0.0
    accompaniment = noise(2 * CHUNK, seed=1)
    record = encode_pair(MEL, stems_entry(tmp_path / "stems", vocals, accompaniment), FRAMES, tmp_path)
    sung, unsung = record["chunks"]
    assert sung["vocal_share"] > 0.97
    assert unsung["vocal_share"] < 0.03
    assert sung["vocal_rms_db"] == pytest.approx(dbfs(vocals[:, :CHUNK]), abs=1e-4)
    assert unsung["vocal_rms_db"] == -120.0
    mix = (vocals + accompaniment)[:, CHUNK:]
    assert unsung["mix_peak"] == pytest.approx(float(np.abs(mix).max()), abs=1e-4)


def test_song_under_a_chunk_is_too_short(tmp_path: Path) -> None:
    stems = stems_entry(tmp_path / "stems", noise(CHUNK - 1), noise(CHUNK - 1))
    with pytest.raises(SongError, match=r"2\.97 s .* 2\.97 s") as caught:
        encode_pair(MEL, stems, FRAMES, tmp_path)
    assert caught.value.status == "too_short"
    assert not (tmp_path / "latents.safetensors").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_latents_that_float16_cannot_hold(tmp_path: Path, value: float) -> None:
    stems = stems_entry(tmp_path / "stems", noise(CHUNK), noise(CHUNK))
    with pytest.raises(SongError) as caught:
        encode_pair(Constant(value), stems, FRAMES, tmp_path)
    assert caught.value.status == "not_finite"
