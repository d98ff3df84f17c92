import math
from pathlib import Path

import numpy as np
import pytest
import torch

from samuel.codecs.base import HOP, Codec
from samuel.errors import InputError
from samuel.generate.takes import (
    FADE_S,
    kept_latents,
    pasted,
    ranges_of,
    settled,
)
from samuel.generate.vocal import Vocal, vocal_of
from tests.generate.voices import voice


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("0-12.5,30-", ((0.0, 12.5), (30.0, math.inf))),
        (" 1.25 - 2 ", ((1.25, 2.0),)),
        ("7-", ((7.0, math.inf),)),
    ],
)
def test_ranges_are_read_as_people_write_them(text: str, ranges: tuple[tuple[float, float], ...]) -> None:
    assert ranges_of(text) == ranges


@pytest.mark.parametrize(
    "text", ["", "-", "5", "5-3", "5-5", "-5-3", "1-2,", "a-b", "nan-inf", "1-2-3", "1e3-2e3"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write them as 0-12"):
        ranges_of(text)


@pytest.fixture
def vocal(tmp_path: Path) -> Vocal:
    (tmp_path / "a").mkdir()
    return vocal_of(voice(100 * HOP), tmp_path / "a")


@pytest.fixture
def old(tmp_path: Path) -> Vocal:
    (tmp_path / "b").mkdir()
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 100 * HOP)).astype(np.float32)
    return vocal_of(noise, tmp_path / "b")


def test_frames_that_lie_in_a_range_as_a_whole_are_kept(old: Vocal, vocal: Vocal, codec: Codec) -> None:
    frame_s = HOP / 44_100
    ranges = ((9.5 * frame_s, 20.5 * frame_s), (90 * frame_s, math.inf))
    kept = kept_latents(old, ranges, codec, vocal, 100)
    assert kept.mask.nonzero().flatten().tolist() == [*range(10, 20), *range(90, 100)]
    torch.testing.assert_close(kept.x0, codec.encode(torch.from_numpy(old.read(0, old.samples))[None]))


def test_frames_of_silence_after_a_short_vocal_are_kept_to_the_end(
    old: Vocal, vocal: Vocal, codec: Codec
) -> None:
    kept = kept_latents(old, ((0.0, math.inf),), codec, vocal, 128)
    assert kept.mask.all()
    assert kept.x0.shape == (1, 64, 128)


def test_what_cannot_be_kept_is_named(old: Vocal, vocal: Vocal, codec: Codec, tmp_path: Path) -> None:
    short = vocal_of(voice(99 * HOP), tmp_path)
    with pytest.raises(InputError, match=r"lasts 4\.60 s, the vocal 4\.64 s"):
        kept_latents(short, ((0.0, 1.0),), codec, vocal, 100)


def test_ranges_that_touch_are_one_and_the_end_of_the_vocal_is_no_end() -> None:
    inf = math.inf
    assert settled(((3.0, 5.0), (0.0, 3.0)), 9.0) == ((0.0, 5.0),)
    assert settled(((1.0, 4.0), (2.0, 3.0), (6.0, inf)), 9.0) == ((1.0, 4.0), (6.0, inf))
    assert settled(((0.0, 9.0),), 9.0) == ((0.0, inf),)
    assert settled(((2.0, 12.0), (1.0, 1.5)), 9.0) == ((1.0, 1.5), (2.0, inf))


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        (((9.0, 10.0),), "from 9 s on: the vocal ends before"),
        (((1.0, 1.05),), "1-1.05: too short to keep"),
        (((8.95, math.inf),), "too short to keep"),
    ],
)
def test_ranges_that_keep_nothing_are_refused(ranges: tuple[tuple[float, float], ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        settled(ranges, 9.0)


def test_the_old_samples_themselves_stay_and_pass_into_the_new_ones(old: Vocal) -> None:
    new = np.full((2, old.samples), 0.5, dtype=np.float32)
    ranges = ((0.0, 1.0), (2.0, 3.0), (4.0, math.inf))
    blocks = np.split(new, [1000, 50_000, 50_001, 150_000], axis=1)
    result = np.concatenate(list(pasted(blocks, old, ranges)), axis=1)
    before = old.read(0, old.samples)
    fade = round(FADE_S * 44_100) + 1
    s = 44_100
    for start, stop in ((0, s - fade), (2 * s + fade, 3 * s - fade), (4 * s + fade, old.samples)):
        assert np.array_equal(result[:, start:stop], before[:, start:stop])
    for start, stop in ((s, 2 * s), (3 * s, 4 * s)):
        assert np.array_equal(result[:, start:stop], new[:, start:stop])
    share = (result - before)[0, 2 * s : 2 * s + fade - 1] / (new - before)[0, 2 * s : 2 * s + fade - 1]
    assert np.allclose(np.diff(share), -1 / (FADE_S * s), atol=1e-4)  # a straight line from new to old
