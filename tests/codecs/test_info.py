"""Which latents a codec takes for its own, and how frames, samples and seconds belong together."""

import json
import logging
from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError

from samuel.codecs import CodecInfo
from samuel.codecs.base import PUBLISHED, same_codec
from samuel.codecs.mel import MelCodec

OWN = MelCodec.info
PUBLISHED_OWN = OWN.model_copy(update={"version": PUBLISHED})
OTHER_RATE = CodecInfo(name="other", version="1", sample_rate=48_000, hop=1920, channels=128)


def test_its_own_latents_are_the_codecs_and_published_ones_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert same_codec(CodecInfo.model_validate_json(OWN.model_dump_json()), OWN)
    assert caplog.text == ""
    assert same_codec(PUBLISHED_OWN, OWN.model_copy(update={"weights_sha256": "0" * 64}))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "by weights unknown" in caplog.text


@pytest.mark.parametrize(
    "change", [{"name": "stable-audio-open"}, {"hop": 1920}, {"weights_sha256": "0" * 64}]
)
def test_nothing_else_is(change: dict[str, Any]) -> None:
    assert not same_codec(OWN.model_copy(update=change), OWN)
    assert not same_codec(PUBLISHED_OWN.model_copy(update=change), OWN)


@pytest.mark.parametrize(
    "change", [{"name": "../mel"}, {"version": "x" * 201}, {"channels": 10**9}, {"more": 1}]
)
def test_what_a_stranger_says_of_a_codec_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CodecInfo.model_validate_json(json.dumps(OWN.model_dump() | change))


@pytest.mark.parametrize("info", [OWN, OTHER_RATE, OTHER_RATE.model_copy(update={"hop": 2048})])
def test_frames_samples_and_seconds_agree(info: CodecInfo) -> None:
    for frames, rate in product([0, 1, 7, 1024, 99_999], [44_100, info.sample_rate]):
        samples = info.samples(frames, rate)
        assert samples / rate == pytest.approx(info.duration_s(frames), abs=1 / rate)
        assert info.frame_count(samples, rate) in (frames, frames + 1)
        assert info.frame_count(info.samples(frames, rate) - 1, rate) == frames or frames == 0
    assert info.samples(7, info.sample_rate) == 7 * info.hop
