import logging

import pytest
import torch

from samuel.codecs import load_codec
from samuel.codecs.base import Codec, made_by
from samuel.config import CodecConfig

CODEC: Codec = load_codec(CodecConfig(), torch.device("cpu"))


def test_its_own_identity_is_the_codecs(caplog: pytest.LogCaptureFixture) -> None:
    assert made_by(CODEC.identity, CODEC)
    assert caplog.text == ""


def test_published_latents_of_that_name_are_believed_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    assert made_by("mel/published", CODEC)
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("samuel.codecs.base", logging.WARNING)
    assert "by weights unknown" in message
    assert CODEC.identity in message


@pytest.mark.parametrize(
    "stated", ["stable-audio-open/published", "mel/published 2", "mel", "mel/", "mel/0", "/published", ""]
)
def test_nothing_else_is(stated: str) -> None:
    assert not made_by(stated, CODEC)
