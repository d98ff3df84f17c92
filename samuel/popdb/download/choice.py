"""Which of a search's hits is the wanted recording.

The list gives a title and a duration, no artist; a hit gives a title, a channel and a duration in whole
seconds. Nothing is fetched here; what a site says is hostile, and only ever compared.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samuel.config import DownloadConfig
from samuel.popdb.download.titles import is_clip, likeness, other_version
from samuel.popdb.status import Status

# 45 points for the title, 45 for the duration, up to 5 for the channel.
TITLE_WEIGHT = DURATION_WEIGHT = 0.45
BONUS = {"topic": 5.0, "VEVO": 3.0, "verified": 2.0, "": 0.0}
# Whole seconds and a little silence at either end say nothing. Beyond, an upload of the recording alone has
# no reason to differ; a clip may have a scene before or after it, and is never shorter for one.
FREE_OFFSET_S, OFFSET_SCALE_S, LONGER_CLIP_SCALE_S = 2.0, 3.0, 24.0
# A topic channel holds the label's own upload: what is further off is another recording.
MOST_TOPIC_OFFSET_S = 2.0
MOST_OFFSET_S = 20.0
LEAST_TITLE = 80.0  # "1979" is like "1999" by 75, "Hello" like "Hello Again" by 63
LEAST_SCORE = 70.0  # a title in full passes up to 3.7 s off, a clip up to 16 s longer
# What a site says goes into JSON, Parquet and logs.
LONGEST_TEXT = 500
MOST_SECONDS = 1e9
MOST_VIEWS = 2**63 - 1
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Hit:
    """What a search says of a video.

    Attributes:
        video_id: The site's name for it; empty where it states none.
        url: Where its page is; anything at all.
        extractor: yt-dlp's `ie_key`.
        title: At most 500 characters, as all its texts; no control characters.
        channel: Who uploaded it.
        duration_s: None where it is not stated, or is no duration.
        live: True for a stream that runs, is announced, or has just ended.
        views: None where they are not stated.
        verified: True where the site vouches for the channel.
    """

    video_id: str
    url: str
    extractor: str
    title: str
    channel: str
    duration_s: float | None
    live: bool
    views: int | None
    verified: bool


@dataclass(frozen=True)
class Candidate:
    """A hit, judged.

    Attributes:
        hit: The hit.
        title_likeness: 0 to 100.
        score: Up to 100, to one decimal.
        refusal: Why it is not taken; None where it can be.
        reason: For people, with the figures.
        fault: The reason without figures, to be counted; empty where it can be taken.
    """

    hit: Hit
    title_likeness: float
    score: float
    refusal: Status | None
    reason: str
    fault: str = ""


@dataclass(frozen=True)
class _Refusal:
    status: Status
    fault: str
    reason: str


@dataclass(frozen=True)
class _Match:
    """How a hit compares.

    Attributes:
        title: Likeness, 0 to 100.
        offset_s: Its duration less the list's; None where one is not stated.
        clip: True where it may have a scene before or after the song.
        channel: A key of `BONUS`.
    """

    title: float
    offset_s: float | None
    clip: bool
    channel: str

    @property
    def score(self) -> float:
        if self.offset_s is None:
            return round((TITLE_WEIGHT + DURATION_WEIGHT) * self.title + BONUS[self.channel], 1)
        scale_s = LONGER_CLIP_SCALE_S if self.clip and self.offset_s > 0 else OFFSET_SCALE_S
        closeness = math.exp(-max(0.0, abs(self.offset_s) - FREE_OFFSET_S) / scale_s)
        points = TITLE_WEIGHT * self.title + DURATION_WEIGHT * 100 * closeness
        return round(points + BONUS[self.channel], 1)

    def __str__(self) -> str:
        offset = [] if self.offset_s is None else [f"{abs(self.offset_s):.1f} s off"]
        channel = [f"{self.channel} channel"] if self.channel else []
        return ", ".join([f"title {self.title:.0f}", *offset, *channel])


def hit_of(entry: Mapping[str, Any]) -> Hit:
    """The hit that yt-dlp's flat search entry describes; any value may be of any type."""
    views = entry.get("view_count")
    return Hit(
        video_id=_text(entry.get("id")),
        url=_text(entry.get("url")),
        extractor=_text(entry.get("ie_key")),
        title=_text(entry.get("title")),
        channel=_text(entry.get("channel")),
        duration_s=seconds_of(entry.get("duration")),
        live=is_live(entry),
        views=views if type(views) is int and 0 <= views <= MOST_VIEWS else None,
        verified=entry.get("channel_is_verified") is True,
    )


def is_live(entry: Mapping[str, Any]) -> bool:
    """True for a stream that runs, is announced, or has just ended."""
    return bool(entry.get("is_live")) or entry.get("live_status") in ("is_live", "is_upcoming", "post_live")


def rank(
    title: str, duration_s: float | None, hits: Sequence[Hit], config: DownloadConfig
) -> list[Candidate]:
    """The hits that can be taken, best first, then the refused ones in the site's order.

    Args:
        title: As the list writes it.
        duration_s: As the list states it; None: by title alone.
        hits: In the site's order, which breaks ties and is the order of the policy "first".
        config: `policy` and `max_duration_s`.
    """
    candidates = [_judged(title, duration_s, hit, config) for hit in hits]
    fit = [candidate for candidate in candidates if candidate.refusal is None]
    if config.policy == "scored":
        fit.sort(key=lambda candidate: -candidate.score)
    return fit + [candidate for candidate in candidates if candidate.refusal is not None]


def verdict(candidates: Sequence[Candidate]) -> tuple[Status, str]:
    """Status and message of a search whose hits are all refused."""
    if not candidates:
        return Status.NO_MATCH, "the search found nothing"
    faults = Counter(candidate.fault for candidate in candidates)
    statuses = {candidate.refusal for candidate in candidates}
    common = statuses.pop() if len(statuses) == 1 else None
    counted = ", ".join(f"{count} × {fault}" for fault, count in faults.items())
    return common or Status.NO_MATCH, f"none of {len(candidates)} hits fits: {counted}"


# --- the judgement ---


def _judged(title: str, duration_s: float | None, hit: Hit, config: DownloadConfig) -> Candidate:
    match = _match(title, duration_s, hit)
    refusal = _unusable(hit, config)
    if refusal is None and config.policy == "scored":
        refusal = _mismatch(title, hit, match)
    if refusal is None:
        return Candidate(hit, match.title, match.score, None, str(match))
    return Candidate(hit, match.title, match.score, refusal.status, refusal.reason, refusal.fault)


def _match(title: str, duration_s: float | None, hit: Hit) -> _Match:
    offset_s = None if duration_s is None or hit.duration_s is None else hit.duration_s - duration_s
    return _Match(
        title=round(likeness(title, hit.title, hit.channel), 1),
        offset_s=offset_s,
        clip=is_clip(hit.title),
        channel=_channel(hit),
    )


def _channel(hit: Hit) -> str:
    name = hit.channel.casefold()
    if name.endswith(" - topic"):
        return "topic"
    return "VEVO" if name.endswith("vevo") else "verified" if hit.verified else ""


def _unusable(hit: Hit, config: DownloadConfig) -> _Refusal | None:
    if not hit.video_id:
        return _Refusal(Status.NO_MATCH, "without an id", "has no id")
    if not hit.url.startswith(("https://", "http://")):
        return _Refusal(Status.NO_MATCH, "not a web address", "not a web address")
    if hit.live:
        return _Refusal(Status.LIVE, "live", "is live")
    if hit.duration_s is None:
        return _Refusal(Status.NO_MATCH, "without a duration", "states no duration")
    if hit.duration_s > config.max_duration_s:
        reason = f"{hit.duration_s:,.0f} s is over download.max_duration_s"
        return _Refusal(Status.TOO_LONG, "over download.max_duration_s", reason)
    return None


def _mismatch(title: str, hit: Hit, match: _Match) -> _Refusal | None:
    offset_s = abs(match.offset_s or 0.0)
    if match.title < LEAST_TITLE:
        fault, reason = "of another title", f"title {match.title:.0f} is under {LEAST_TITLE:.0f}"
    elif offset_s > MOST_OFFSET_S:
        fault, reason = "of another duration", f"{offset_s:.0f} s off"
    elif match.channel == "topic" and offset_s > MOST_TOPIC_OFFSET_S:
        fault, reason = "of another duration", f"{offset_s:.1f} s off, topic channel"
    # Outright: under 25 points less, an instrumental of the exact duration would still pass.
    elif reason := other_version(title, hit.title, hit.channel):
        fault = "of another version"
    elif match.score < LEAST_SCORE:
        fault, reason = "scored too low", f"score {match.score:.1f} is under {LEAST_SCORE:.0f}: {match}"
    else:
        return None
    return _Refusal(Status.NO_MATCH, fault, reason)


# --- hostile values ---


def _text(value: Any) -> str:
    return UNSAFE.sub("\ufffd", value[:LONGEST_TEXT]) if isinstance(value, str) else ""


def seconds_of(value: Any) -> float | None:
    """A duration that a site states; None where it is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < MOST_SECONDS else None
