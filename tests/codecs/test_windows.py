"""A song in stretches equals the whole song at once, and asks for no more than a stretch at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from samuel.audio import Audio
from samuel.codecs.base import STRETCH, Codec, decode_windows, encode_windows, stretches_of, windows_of
from samuel.codecs.mel import HOP, MelCodec
from samuel.codecs.stable_audio_open import StableAudioCodec, load
from samuel.config import CodecConfig
from tests.codecs.music import music
from tests.weights import write_stable_audio

CPU = torch.device("cpu")


class SmallMel(MelCodec):
    """Its stretches are short: 122 frames to decode, 272 to encode."""

    window = 80


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> tuple[StableAudioCodec, StableAudioCodec]:
    """One whose stretches are short, 100 frames to decode and 112 to encode; and one that needs none."""
    folder = tmp_path_factory.mktemp("stable-audio")
    write_stable_audio(folder)
    config = CodecConfig(name="stable-audio-open", path=str(folder))
    small, large = load(config, CPU), load(config, CPU)
    small.window = 40
    return small, large


@pytest.fixture(scope="module")
def song() -> Audio:
    return music(301)[0].numpy()


def decoded(codec: Codec, latents: Tensor, samples: int) -> Audio:
    return np.concatenate(list(decode_windows(codec, latents, samples)), axis=1)


def error(value: Tensor | Audio, reference: Tensor) -> float:
    """Largest difference, by the root mean square of the reference."""
    assert tuple(value.shape) == tuple(reference.shape)
    return float(
        (torch.as_tensor(value) - reference).abs().max() / reference.square().mean().sqrt().clamp(min=1e-9)
    )


@pytest.mark.parametrize("frames", [0, 1, 273, 1028, 1029, 2056, 19_380])
def test_stretches_hold_the_windows_of_the_whole_song(frames: int) -> None:
    windows = windows_of(frames, 272, 10)
    assert [frame for keep, _ in windows for frame in keep] == list(range(frames))
    for keep, window in windows:
        assert len(window) == min(frames, 272)
        assert window.start == 0 or keep.start - window.start >= 10
        assert window.stop == frames or window.stop - keep.stop >= 10
    assert len(windows) <= max(1, -(-(frames - 20) // 252))
    stretches = list(stretches_of(frames, 272, 10))
    assert [frame for keep, _ in stretches for frame in keep] == list(range(frames))
    inner = [
        (range(stretch.start + window.start, stretch.start + window.stop))
        for _, stretch in stretches
        for _, window in windows_of(len(stretch), 272, 10)
    ]
    assert inner == [window for _, window in windows]
    assert all(len(stretch) <= 272 + (STRETCH - 1) * 252 for _, stretch in stretches)


@pytest.mark.parametrize("samples", [1, HOP + 1, 300 * HOP + 77])
def test_mel_in_stretches_equals_the_whole(song: Audio, samples: int) -> None:
    codec, whole = SmallMel(CPU), torch.from_numpy(song[None, :, :samples])
    latents = encode_windows(codec, lambda start, stop: song[:, start:stop], samples)
    assert error(latents.exp(), codec.encode(whole).exp()) < 1e-5
    assert error(decoded(codec, latents, samples), codec.decode(latents)[0, :, :samples]) < 1e-4


@pytest.mark.parametrize("samples", [1, 101 * HOP, 230 * HOP + 77])
def test_stable_audio_in_stretches_equals_one_pass(
    vaes: tuple[StableAudioCodec, StableAudioCodec], song: Audio, samples: int
) -> None:
    codec, whole = vaes
    latents = encode_windows(codec, lambda start, stop: song[:, start:stop], samples)
    assert latents.dtype == torch.float32
    assert error(latents, whole.encode(torch.from_numpy(song[None, :, :samples]))) < 1e-4
    assert error(decoded(codec, latents, samples), whole.decode(latents)[0, :, :samples]) < 1e-4
