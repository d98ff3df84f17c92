"""The round trip tells codecs that work from weights that make noise."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from samuel.audio import Audio
from samuel.codecs import load_codec
from samuel.codecs.base import Codec, CodecInfo, loudest_chunk, require_faithful, round_trip
from samuel.codecs.mel import HOP
from samuel.codecs.stable_audio_open import FILES
from samuel.config import CodecConfig
from samuel.errors import InputError, MissingPartError
from samuel.synthetic import compose
from tests.weights import write_stable_audio

CPU = torch.device("cpu")
CHUNK = 96 * HOP
FAKE = CodecInfo(name="fake", version="1", sample_rate=44_100, hop=1, channels=2)


@dataclass
class Fake:
    """A codec whose latents are the audio, made louder, and whose decoder does as it is told."""

    change: Callable[[Tensor], Tensor]
    scale: float = 1.0
    info: CodecInfo = FAKE
    window: int = 512
    encode_reach: int = 0
    decode_reach: int = 0

    def encode(self, audio: Tensor) -> Tensor:
        return self.scale * audio

    def decode(self, latents: Tensor) -> Tensor:
        return self.change(latents / self.scale)

    def cancel(self) -> None:
        """Nobody waits."""


@pytest.fixture(scope="module")
def song() -> Audio:
    return loudest_chunk(compose(0, 0).mix, CHUNK)


@pytest.fixture(scope="module")
def bass(song: Audio) -> Audio:
    """The song below 200 Hz, which faithful weights keep."""
    return sosfiltfilt(butter(8, 200, fs=44100, output="sos"), song).astype(np.float32)


@pytest.fixture(scope="module")
def faithful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faithful")
    write_stable_audio(folder, faithful=True)
    return folder


def white(seed: int = 0, level: float = 0.1) -> Audio:
    return (level * np.random.default_rng(seed).standard_normal((2, CHUNK))).astype(np.float32)


def load(folder: Path) -> Codec:
    return load_codec(CodecConfig(name="stable-audio-open", path=str(folder)), CPU)


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_figures_of_a_gain(gain: float) -> None:
    result = round_trip(Fake(lambda latents: gain * latents), white())
    assert result.level_db == pytest.approx(20 * np.log10(gain), abs=0.001)
    assert result.distance_db == pytest.approx(abs(20 * np.log10(gain)), abs=0.01)
    assert result.si_sdr_db > 60.0


def test_mel_passes_though_it_keeps_no_phase(song: Audio, bass: Audio) -> None:
    mel = load_codec(CodecConfig(), CPU)
    for audio in (song, bass, white()):
        result = require_faithful(mel, audio)
        assert 2.0 < result.distance_db < 7.0
        assert result.si_sdr_db < 0.0


def test_weights_that_reconstruct_pass(faithful: Path, bass: Audio) -> None:
    result = require_faithful(load(faithful), bass)
    assert result.si_sdr_db > 20.0
    assert abs(result.level_db) < 1.0
    assert result.distance_db < 8.0


def shuffle(values: Tensor) -> Tensor:
    """Each output's weights in another order; their length, and so the scale, stays."""
    rows = values.flatten(1)
    order = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)).argsort(dim=1)
    return rows.gather(1, order).view(values.shape)


@pytest.mark.parametrize(
    ("tensor", "change"),
    [("encoder.conv2.weight_g", torch.zeros_like), ("decoder.conv1.weight_v", shuffle)],
)
def test_damaged_weights_are_refused(
    faithful: Path, bass: Audio, tmp_path: Path, tensor: str, change: Callable[[Tensor], Tensor]
) -> None:
    config, weights = FILES
    state = load_file(faithful / weights)
    damaged = change(state[tensor])
    assert not torch.equal(damaged, state[tensor])
    (tmp_path / "vae").mkdir()
    save_file(state | {tensor: damaged}, tmp_path / weights)
    (tmp_path / config).write_bytes((faithful / config).read_bytes())
    codec = load(tmp_path)
    with pytest.raises(MissingPartError, match="does not give back"):
        require_faithful(codec, bass)


def test_latents_pass_through_float16(song: Audio) -> None:
    require_faithful(Fake(lambda latents: latents, scale=1e4), song)
    with pytest.raises(MissingPartError, match=r"^fake/1: .*nan dB.*fetch its weights again, or correct"):
        require_faithful(Fake(lambda latents: latents, scale=1e6), song)


def test_silence_proves_nothing() -> None:
    left = white()[0]
    with pytest.raises(InputError, match="silent"):
        round_trip(Fake(lambda latents: latents), np.stack([left, -left]))


def test_the_loudest_chunk_equals_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((2, 40 * HOP + 100)).astype(np.float32)
    audio *= np.repeat(rng.uniform(0, 1, 41), HOP)[: audio.shape[1]]
    samples = 7 * HOP + 50
    middle = audio.mean(axis=0)
    energies = {
        start: float(np.sum(middle[start : start + samples] ** 2))
        for start in range(0, audio.shape[1] - samples + 1, HOP)
    }
    start = max(energies, key=lambda candidate: energies[candidate])
    assert 0 < start < audio.shape[1] - samples
    assert np.array_equal(loudest_chunk(audio, samples), audio[:, start : start + samples])
