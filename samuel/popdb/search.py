"""Title → the site's hits, and which of them is the wanted recording (paper §III-C).

The list gives no artist. What a site says is hostile, and only ever compared. A video's title is taken apart:

    Artist ft. Guest - Title (Live at X) [HD] | Official Video
    └──── segment ─┘   └── segment, groups ─┘   └─ segment ──┘

Guests, and groups that say nothing of the recording ([HD]), are dropped on both sides. Likeness is that of
the best run of segments. Words that make it another version ("live") are looked for apart from that.
"""

import math
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic
from rapidfuzz import fuzz

from samuel.config import DownloadConfig
from samuel.errors import SongError
from samuel.popdb.rate_limit import RateLimiter
from samuel.popdb.site import YtDlp, site_options, translated_errors
from samuel.popdb.songs import normalise_title
from samuel.popdb.status import Status

WORDS = tomllib.loads(Path(__file__).with_name("search_words.toml").read_text("utf-8"))
NEUTRAL, TRAILING = frozenset(WORDS["neutral"].split()), frozenset(WORDS["trailing"].split())
TELLING = {
    kind: re.compile(rf"(?<!\S)(?:{words.replace('NEUTRAL', '|'.join(sorted(NEUTRAL)))})(?!\S)")
    for kind, words in WORDS["versions"].items()
}
TELLING_CHANNEL = re.compile(rf"(?<!\S)(?:{WORDS['channel']})(?!\S)")
# A title without its groups is less than itself: "Stay (I Missed You)" is not any "Stay".
BARE_SHARE = 0.9
# Their runs grow with the square, and how many a title has is for the site to say.
MOST_SEGMENTS = 8
CLIP = re.compile(r"(?<!\S)(?<!lyric )(?<!lyrics )(?:video|videoclip|clip|клип|mv|m v)(?!\S)")

GROUP = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]|\{([^{}]*)\}|【([^】]*)】")
SEPARATOR = re.compile(r"\s[-–—/~•·]+\s?|(?<![^\w\s])[-–—:]+\s|\s?\|+\s?")
QUOTE = re.compile(r"""["“”„«»「」『』]|(?<!\S)['‘]|['’](?!\S)""")
APOSTROPHE = re.compile(r"['’‘`´]")
VARIATION_SELECTOR = re.compile(r"[\ufe00-\ufe0f]")
GUESTS = re.compile(r"(?<=\s)(?:feat\.?|ft\.?|featuring)\s[^()\[\]{}|]*?(?=\s[-–—]\s|:\s|[()\[\]{}|\"“]|$)")
GUESTS_OR_SOURCE = re.compile(r"\s*(?:feat|ft|featuring|with|prod|from)\b")
OWN_CHANNEL = re.compile(r"(?: - topic|vevo|\s(?:official|oficial|officiel|music|tv|band|channel))$")

TITLE_WEIGHT = DURATION_WEIGHT = 0.45
BONUS = {"topic": 5.0, "VEVO": 3.0, "verified": 2.0, "": 0.0}
# Whole seconds and a little silence at either end say nothing. Beyond, an upload of the recording alone has
# no reason to differ; a clip may have a scene before or after it, and is never shorter for one.
FREE_OFFSET_S, OFFSET_SCALE_S, LONGER_CLIP_SCALE_S = 2.0, 3.0, 24.0
# A topic channel holds the label's own upload: what is further off is another recording.
MOST_TOPIC_OFFSET_S, MOST_OFFSET_S = 2.0, 20.0
LEAST_TITLE = 80.0  # "1979" is like "1999" by 75, "Hello" like "Hello Again" by 63
LEAST_SCORE = 70.0  # a title in full passes up to 3.7 s off, a clip up to 16 s longer
LONGEST_TEXT, MOST_SECONDS = 500, 1e9
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def likeness(wanted: str, found: str, channel: str) -> float:
    """Likeness of a wanted title and the best run of segments of a video's title, 0 to 100."""
    text = _without_guests(wanted)
    first, *others = SEPARATOR.split(_with_groups_inlined(text))
    full = comparable(" ".join([first, *(other for other in others if not _says_nothing(other))]))
    bare = comparable(SEPARATOR.split(GROUP.sub(" ", text))[0])
    best, text = 0.0, _without_guests(found)
    for variant, share in ((_with_groups_inlined(text), 1.0), (GROUP.sub(" ", text), BARE_SHARE)):
        for run in _runs(_segments(variant, channel)):
            best = max(best, share * fuzz.ratio(full, run), BARE_SHARE * fuzz.ratio(bare, run))
    return best


def other_version(wanted: str, found: str, channel: str) -> str:
    """Reason, for people, why a video is another version than the wanted one; empty where there is none.

    A word that belongs to the wanted title itself ("Live and Let Die") counts from its second time on.
    """
    text = _without_guests(wanted)
    first, *others = SEPARATOR.split(GROUP.sub(" ", text))
    own, asked = _versions([first]), set(_versions([*map(_content, GROUP.finditer(text)), *others]))
    groups_apart = GROUP.sub(lambda group: f" | {_content(group)} | ", _without_guests(found))
    said = _versions(_segments(groups_apart, channel))
    for kind, words in said.items():
        if kind not in asked and len(words) > len(own.get(kind, ())):
            return f"says “{words[-1]:.40}”, the wanted title does not"
    on_channel = TELLING_CHANNEL.search(comparable(channel))
    if on_channel and on_channel[0] not in comparable(wanted).split():
        return f"on a channel that says “{on_channel[0]}”"
    if asked and not asked & said.keys():
        return f"not said to be of the wanted version ({', '.join(sorted(asked))})"
    return ""


def comparable(text: str) -> str:
    """Words of `text` in NFKC and casefold, without punctuation; all of it if there is no letter or digit."""
    folded = VARIATION_SELECTOR.sub("", _folded(text))
    if not any(unicodedata.category(c)[0] in "LN" for c in folded):
        return folded
    spelt = APOSTROPHE.sub("", folded).replace("&", " and ")
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in spelt).split())


def _folded(text: str) -> str:
    return normalise_title(unicodedata.normalize("NFKC", text).casefold())


def _without_guests(title: str) -> str:
    return GUESTS.sub(" ", _folded(title))


def _with_groups_inlined(text: str) -> str:
    """`text` with its groups as plain words, less those that say nothing."""
    return GROUP.sub(lambda group: " " if _says_nothing(_content(group)) else f" {_content(group)} ", text)


def _content(group: re.Match[str]) -> str:
    return next((content for content in group.groups() if content is not None), "")


def _says_nothing(text: str) -> bool:
    words = comparable(text).split()
    return bool(GUESTS_OR_SOURCE.match(text)) or all(word in NEUTRAL or word.isdigit() for word in words)


def _segments(text: str, channel: str) -> list[str]:
    """Segments of a video's title, less the one that names the channel unless it is the only one."""
    segments = [segment for segment in SEPARATOR.split(QUOTE.sub(" | ", text)) if segment.strip()]
    artist = comparable(OWN_CHANNEL.sub("", _folded(channel))).replace(" ", "")
    return [part for part in segments if comparable(part).replace(" ", "") != artist] or segments


def _runs(segments: Sequence[str]) -> Iterator[str]:
    """Each run of neighbouring segments, also without what uploaders add to it."""
    parts = [comparable(segment) for segment in segments[:MOST_SEGMENTS]]
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            words = " ".join(parts[start:end]).split()
            run = " ".join(words)
            while len(words) > 1 and words[-1] in TRAILING:
                words.pop()
            yield from filter(None, (run, " ".join(words), run.rpartition(" by ")[0]))


def _versions(parts: Iterable[str]) -> dict[str, list[str]]:
    """Words of `parts` that tell a version, by its kind."""
    words = "\n".join(comparable(part) for part in parts)  # no phrase goes from one part into the next
    return {kind: found for kind, pattern in TELLING.items() if (found := pattern.findall(words))}


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(strict=True, allow_inf_nan=False))
class Hit:
    """One video of a search, as the site describes it; texts of at most 500 plain characters."""

    video_id: str  # the site's name for it; empty where it states none
    url: str  # where its page is; anything at all
    extractor: str  # yt-dlp's `ie_key`
    title: str
    channel: str  # who uploaded it
    duration_s: float | None  # None where it is not stated, or is no duration
    live: bool  # a stream that runs, is announced, or has just ended
    verified: bool  # the site vouches for the channel

    @property
    def channel_kind(self) -> str:
        """A key of `BONUS`."""
        name = self.channel.casefold()
        if name.endswith(" - topic"):
            return "topic"
        return "VEVO" if name.endswith("vevo") else "verified" if self.verified else ""


@dataclass(frozen=True)
class Candidate:
    """A hit, judged."""

    hit: Hit
    title_likeness: float  # 0 to 100
    score: float  # up to 100, to one decimal
    refusal: Status | None  # why it is not taken; None where it can be
    reason: str  # for people, with the figures


def read_hit(entry: Mapping[str, Any]) -> Hit:
    """The hit that yt-dlp's flat search entry describes; any value may be of any type."""
    texts = [entry.get(name) for name in ("id", "url", "ie_key", "title", "channel")]
    safe = [UNSAFE.sub("\ufffd", text[:LONGEST_TEXT]) if isinstance(text, str) else "" for text in texts]
    verified = entry.get("channel_is_verified") is True
    return Hit(*safe, duration_s=duration_of(entry), live=is_live(entry), verified=verified)


def is_live(entry: Mapping[str, Any]) -> bool:
    """True for a stream that runs, is announced, or has just ended."""
    return bool(entry.get("is_live")) or entry.get("live_status") in ("is_live", "is_upcoming", "post_live")


def duration_of(entry: Mapping[str, Any]) -> float | None:
    """Duration in seconds that a site states; None where it states none."""
    value = entry.get("duration")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < MOST_SECONDS else None


def rank(
    title: str, duration_s: float | None, hits: Sequence[Hit], config: DownloadConfig
) -> list[Candidate]:
    """The hits that can be taken, best first, then the refused ones; the order of the site breaks ties."""
    candidates = [_judge(title, duration_s, hit, config) for hit in hits]
    fit = [candidate for candidate in candidates if candidate.refusal is None]
    if config.policy == "scored":
        fit.sort(key=lambda candidate: -candidate.score)
    return fit + [candidate for candidate in candidates if candidate.refusal is not None]


def summarise_refusals(candidates: Sequence[Candidate]) -> tuple[Status, str]:
    """Status and message of a search whose hits are all refused."""
    if not candidates:
        return Status.NO_MATCH, "the search found nothing"
    statuses = {candidate.refusal for candidate in candidates}
    common = statuses.pop() if len(statuses) == 1 else None
    best = max(candidates, key=lambda candidate: candidate.score)
    return common or Status.NO_MATCH, f"none of {len(candidates)} hits fits; the likeliest: {best.reason}"


def _judge(title: str, duration_s: float | None, hit: Hit, config: DownloadConfig) -> Candidate:
    alike = round(likeness(title, hit.title, hit.channel), 1)
    offset_s = None if duration_s is None or hit.duration_s is None else hit.duration_s - duration_s
    closeness, off_s = alike / 100, abs(offset_s or 0.0)  # where no duration is known the title counts twice
    if offset_s is not None:
        longer_clip = offset_s > 0 and CLIP.search(comparable(hit.title))
        scale_s = LONGER_CLIP_SCALE_S if longer_clip else OFFSET_SCALE_S
        closeness = math.exp(-max(0.0, off_s - FREE_OFFSET_S) / scale_s)
    points = TITLE_WEIGHT * alike + DURATION_WEIGHT * 100 * closeness
    score, kind = round(points + BONUS[hit.channel_kind], 1), hit.channel_kind
    reason = f"title {alike:.0f}"
    reason += "" if offset_s is None else f", {off_s:.1f} s off"
    reason += f", {kind} channel" if kind else ""
    length_s, longest_s, topic = hit.duration_s or 0.0, config.max_duration_s, kind == "topic"
    # What nobody could use, whatever it is called.
    refusals = [
        (not hit.video_id, Status.NO_MATCH, "has no id"),
        (not hit.url.startswith(("https://", "http://")), Status.NO_MATCH, "not a web address"),
        (hit.live, Status.LIVE, "is live"),
        (hit.duration_s is None, Status.NO_MATCH, "states no duration"),
        (length_s > longest_s, Status.TOO_LONG, f"{length_s:,.0f} s is over download.max_duration_s"),
    ]
    if config.policy == "scored":
        # Another version outright: under 25 points less, an instrumental of the exact duration would pass.
        version = other_version(title, hit.title, hit.channel)
        least = f"score {score:.1f} is under {LEAST_SCORE:.0f}: {reason}"
        refusals += [
            (alike < LEAST_TITLE, Status.NO_MATCH, f"title {alike:.0f} is under {LEAST_TITLE:.0f}"),
            (off_s > MOST_OFFSET_S, Status.NO_MATCH, f"{off_s:.0f} s off"),
            (topic and off_s > MOST_TOPIC_OFFSET_S, Status.NO_MATCH, f"{off_s:.1f} s off, topic channel"),
            (bool(version), Status.NO_MATCH, version),
            (score < LEAST_SCORE, Status.NO_MATCH, least),
        ]
    for refused, status, why in refusals:
        if refused:
            return Candidate(hit, alike, score, status, why)
    return Candidate(hit, alike, score, None, reason)


def search(
    title: str, config: DownloadConfig, limiter: RateLimiter, repeated: bool, folder: Path
) -> dict[str, Any]:
    """Search the site for `title`, as text whatever it looks like; `repeated` where that has failed before.

    `{"hits": [...]}`, each the fields of a `Hit`; a SongError where the site did not answer.
    """
    if not title.strip():
        raise SongError(Status.NO_MATCH, "the title is empty: nothing to search for")
    query = f"{config.search}{config.search_results}:{title}"
    with limiter.request("search", repeated=repeated):
        try:
            with translated_errors(folder), YtDlp(site_options(config, folder)) as ydl:
                found: Any = ydl.extract_info(query, download=False)
                entries = [entry for entry in found.get("entries") or [] if isinstance(entry, dict)]
        except SongError as error:
            if Status(error.status).retryable:
                raise
            # Without an answer nothing is known of the song, let alone for good.
            raise SongError(Status.SERVER_ERROR, error.message) from error
    return {"hits": [asdict(read_hit(entry)) for entry in entries]}
