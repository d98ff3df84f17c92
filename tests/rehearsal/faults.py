"""What goes wrong with the songs of a rehearsal, and what must become of them."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soundfile

from samuel.popdb.status import Status
from tests.popdb.site import Answer, encoded

Spoil = Callable[[Answer], Answer]


@dataclass(frozen=True)
class Fault:
    """What the site does to a song.

    Attributes:
        name: For people.
        place: Which requests it spoils: search, page or media; segment: the media comes in segments, and it
            spoils the second.
        status: What must become of the song as long as the fault lasts.
        spoil: The right answer → the one that is sent.
        brief: The first request of each address alone is spoilt.
    """

    name: str
    place: str
    status: Status
    spoil: Spoil
    brief: bool = False


def _http(status: int) -> Spoil:
    return lambda _: Answer(b"no", status)


def _page(**fields: Any) -> Spoil:
    return lambda answer: replace(answer, body=json.dumps(json.loads(answer.body) | fields).encode())


def _cut(**fields: Any) -> Spoil:
    # Two tries do not make a whole: each goes on where the last one stopped.
    return lambda answer: replace(answer, sent=len(answer.body) // 4, **fields)


def _shorter(answer: Answer) -> Answer:
    """A whole file of a quarter of the sound."""
    sound, sample_rate = soundfile.read(io.BytesIO(answer.body), always_2d=True)
    return replace(answer, body=encoded(sound[: len(sound) // 4].astype(np.float32), sample_rate, "WAV"))


def _longer(answer: Answer) -> Answer:
    return replace(answer, length=len(answer.body) + 999)


def _slow(answer: Answer) -> Answer:
    return replace(answer, bytes_per_s=len(answer.body) / 60)


def _sent_instead(body: bytes) -> Spoil:
    return lambda _: Answer(body)


FINAL = (
    Fault("page 404", "page", Status.UNAVAILABLE, _http(404)),
    Fault("video unavailable", "page", Status.UNAVAILABLE, _page(error="Video unavailable")),
    Fault("geo-restricted", "page", Status.GEO_BLOCKED, _page(geo_restricted="Blocked where you are")),
    Fault("age-gated", "page", Status.AGE_GATED, _page(error="Sign in to confirm your age")),
    Fault("media 404", "media", Status.UNAVAILABLE, _http(404)),
    Fault("corrupt audio", "media", Status.DECODE_FAILED, _sent_instead(bytes(range(256)) * 100)),
)
PASSING = (
    Fault("search 429", "search", Status.RATE_LIMITED, _http(429)),
    Fault("search 503", "search", Status.SERVER_ERROR, _http(503)),
    Fault("page 403", "page", Status.FORBIDDEN, _http(403)),
    Fault("media 403", "media", Status.FORBIDDEN, _http(403)),
    Fault("media 429", "media", Status.RATE_LIMITED, _http(429)),
    Fault("media 500", "media", Status.SERVER_ERROR, _http(500)),
    Fault("reset", "media", Status.NETWORK, _cut(reset=True)),
    Fault("truncated", "media", Status.NETWORK, _cut()),
    Fault("too short", "media", Status.NETWORK, _shorter),
    Fault("wrong length", "media", Status.NETWORK, _longer),
    Fault("web page", "media", Status.SERVER_ERROR, _sent_instead(b"<!DOCTYPE html><p>Sorry")),
    Fault("slow", "media", Status.NETWORK, _slow),
    Fault("missing segment", "segment", Status.NETWORK, _http(404)),
)
# In the order in which they are given out, each as often as the others.
FAULTS = (*FINAL, *PASSING, *(replace(fault, brief=True) for fault in PASSING))
