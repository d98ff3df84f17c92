"""Title → what the site's search says."""

import math
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from samuel.config import DownloadConfig
from samuel.errors import SongError
from samuel.popdb.rate_limit import Pace
from samuel.popdb.site import YtDlp, site_options, yt_dlp_fails
from samuel.popdb.status import Status

# Two titles of one song: the list's and a video's.
#
# A video's title is taken apart at dashes, bars and quotes, and its groups in brackets are told from the
# rest:
#
#     Artist ft. Guest - Title (Live at X) [HD] | Official Video
#     └──── segment ─┘   └── segment, groups ─┘   └─ segment ──┘
#
# Guests, and groups that say nothing of the recording ([HD]), go on both sides. Likeness is that of the best
# run of segments. Words that make it another version ("live") are looked for apart from that, as words. A
# title
# without a letter or a digit ("+") is compared as it is.


# A title without its groups is less than itself: "Stay (I Missed You)" is not any "Stay".
BARE_SHARE = 0.9
# Their runs grow with the square, and how many a title has is for the site to say.
MOST_SEGMENTS = 8
REMEMBERED = 256  # texts: the wanted title is compared with each of a song's hits

# A group that holds nothing else, or what follows a dash in the list, says nothing of the recording.
NEUTRAL = frozenset({
    "1080p", "4k", "720p", "album", "and", "anniversary", "audio", "bonus", "clean", "clip", "deluxe",
    "digital", "download", "edit", "edited", "edition", "exclusive", "explicit", "free", "full", "hd", "hq",
    "in", "letra", "lyric", "lyrics", "m", "mix", "mono", "music", "mv", "new", "official", "officiel",
    "offizielles", "oficial", "on", "original", "ost", "premiere", "radio", "remaster", "remastered",
    "screen", "single", "song", "soundtrack", "stereo", "studio", "the", "track", "uhd", "upgrade", "v",
    "version", "video", "videoclip", "visualiser", "visualizer", "with", "клип",
})  # fmt: skip
# What uploaders add to the end of a title without brackets.
TRAILING = frozenset({
    "4k", "audio", "hd", "hq", "letra", "lyric", "lyrics", "m", "music", "mv", "official", "v", "video",
    "visualiser", "visualizer",
})  # fmt: skip
# Versions that are another recording, by the words that tell them.
VERSIONS = {
    "acoustic": r"acoustic|acustico|acústico|unplugged|stripped",
    "compilation": r"full album|greatest hits|(?:best|top) songs|playlist|medley|nonstop|megamix|compilation",
    "cover": r"cover|covers|covered|covering|tribute|sings|as performed by|in the style of|歌ってみた"
    r"|made (?:famous|popular) by|originally (?:performed|sung) by",
    "edit": rf"(?!(?:{'|'.join(sorted(NEUTRAL))}|\d+)\s)\S+ (?:version|edit|mix)",
    "instrumental": r"instrumentals?|inst|backing track|no vocals?|without vocals|minus one",
    "karaoke": r"karaoke|sing ?along|videoke|カラオケ|노래방",
    "lesson": r"tutorial|lesson|how to play|reaction|reacts|reacting",
    "live": r"live|concert|unplugged|en vivo|ao vivo|en directo|dal vivo|sessions?|tour|tiny desk|performs"
    r"|recorded at",
    "loop": r"loop|looped|\d+ ?(?:hours?|hrs?)",
    "remix": r"remix|remixed|bootleg|mashup|rework|reworked|flip|vip|extended",
    "slowed": r"slowed|reverb|sped up|speed up|nightcore|daycore|8d|bass boosted|432 ?hz",
}
TELLING = {kind: re.compile(rf"(?<!\S)(?:{words})(?!\S)") for kind, words in VERSIONS.items()}
# What a channel's name tells: less, for "Live" and "Cover Drive" are artists.
TELLING_CHANNEL = re.compile(r"(?<!\S)(?:karaoke|instrumentals?|tribute|covers|nightcore)(?!\S)")
CLIP = re.compile(r"(?<!\S)(?<!lyric )(?<!lyrics )(?:video|videoclip|clip|клип|mv|m v)(?!\S)")

GROUP = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]|\{([^{}]*)\}|【([^】]*)】")
SEPARATOR = re.compile(r"\s[-–—/~•·]+\s?|(?<![^\w\s])[-–—:]+\s|\s?\|+\s?")
QUOTE = re.compile(r"""["“”„«»「」『』]|(?<!\S)['‘]|['’](?!\S)""")
APOSTROPHE = re.compile(r"['’‘`´]")
VARIATION_SELECTOR = re.compile(r"[\ufe00-\ufe0f]")
GUESTS = re.compile(r"(?<=\s)(?:feat\.?|ft\.?|featuring)\s[^()\[\]{}|]*?(?=\s[-–—]\s|:\s|[()\[\]{}|\"“]|$)")
GUESTS_OR_SOURCE = re.compile(r"\s*(?:feat|ft|featuring|with|prod|from)\b")
OWN_CHANNEL = re.compile(r"(?: - topic|vevo|\s(?:official|oficial|officiel|music|tv|band|channel))$")


def likeness(wanted: str, found: str, channel: str) -> float:
    """Likeness of a wanted title and the best part of a video's title, 0 to 100.

    A part that only names the channel is the artist, and is not compared.
    """
    full, bare = _wanted(wanted)
    best = 0.0
    for without_groups, share in ((False, 1.0), (True, BARE_SHARE)):
        for run in _runs(_segments(found, channel, without_groups=without_groups)):
            best = max(best, share * fuzz.ratio(full, run), BARE_SHARE * fuzz.ratio(bare, run))
    return best


def other_version(wanted: str, found: str, channel: str) -> str:
    """What makes a video another version than the wanted one, for people; empty where nothing does.

    A word that belongs to the wanted title itself ("Live and Let Die") counts from its second time on.
    """
    own, asked = _own_and_asked(wanted)
    told = _versions(_segments(found, channel, groups_apart=True))
    for kind, words in told.items():
        if kind not in asked and len(words) > len(own.get(kind, ())):
            return f"says “{words[-1]:.40}”, the wanted title does not"
    on_channel = TELLING_CHANNEL.search(comparable(channel))
    if on_channel and on_channel[0] not in comparable(wanted).split():
        return f"on a channel that says “{on_channel[0]}”"
    if asked and not asked & told.keys():
        return f"not said to be of the wanted version ({', '.join(sorted(asked))})"
    return ""


def is_clip(found: str) -> bool:
    """True where a video's title promises pictures: there may be a scene before or after the song."""
    return bool(CLIP.search(comparable(found)))


@lru_cache(maxsize=REMEMBERED)
def comparable(text: str) -> str:
    """Words of `text` in NFKC and casefold, without punctuation; all of it if there is no letter or digit."""
    folded = VARIATION_SELECTOR.sub("", _folded(text))
    if not any(unicodedata.category(c)[0] in "LN" for c in folded):
        return folded
    spelt = APOSTROPHE.sub("", folded).replace("&", " and ")
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in spelt).split())


@lru_cache(maxsize=REMEMBERED)
def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(c for c in folded if unicodedata.category(c) != "Cf").split())


def _without_guests(title: str) -> str:
    return GUESTS.sub(" ", _folded(title))


# --- the wanted title ---


def _wanted(title: str) -> tuple[str, str]:
    """(the title less what says nothing, its first segment without groups)."""
    text = _without_guests(title)
    first, *others = SEPARATOR.split(_inlined(text))
    full = comparable(" ".join([first, *(other for other in others if not _says_nothing(other))]))
    bare = comparable(SEPARATOR.split(GROUP.sub(" ", text))[0])
    return full, bare


def _own_and_asked(title: str) -> tuple[dict[str, list[str]], set[str]]:
    """(version words of the title itself, versions that its groups and what follows a dash ask for)."""
    text = _without_guests(title)
    first, *others = SEPARATOR.split(GROUP.sub(" ", text))
    return _versions([first]), set(_versions([*map(_content, GROUP.finditer(text)), *others]))


# --- a video's title ---


def _segments(
    title: str, channel: str, *, without_groups: bool = False, groups_apart: bool = False
) -> list[str]:
    text = _without_guests(title)
    if groups_apart:
        text = GROUP.sub(lambda group: f" | {_content(group)} | ", text)
    text = GROUP.sub(" ", text) if without_groups else _inlined(text)
    segments = [segment for segment in SEPARATOR.split(QUOTE.sub(" | ", text)) if segment.strip()]
    artist = _run_together(OWN_CHANNEL.sub("", _folded(channel)))
    return [s for s in segments if _run_together(s) != artist] or segments


def _runs(segments: Sequence[str]) -> Iterator[str]:
    """Each run of neighbouring segments, also without what uploaders add to it."""
    parts = [comparable(segment) for segment in segments[:MOST_SEGMENTS]]
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            run = " ".join(parts[start:end])
            yield from filter(None, (run, _without_trailing(run), run.rpartition(" by ")[0]))


def _without_trailing(run: str) -> str:
    words = run.split()
    while len(words) > 1 and words[-1] in TRAILING:
        words.pop()
    return " ".join(words)


def _run_together(text: str) -> str:
    return comparable(text).replace(" ", "")


# --- groups and words ---


def _inlined(text: str) -> str:
    """`text` with its groups as plain words, less those that say nothing."""

    def plain(group: re.Match[str]) -> str:
        return " " if _says_nothing(content := _content(group)) else f" {content} "

    return GROUP.sub(plain, text)


def _content(group: re.Match[str]) -> str:
    return next((content for content in group.groups() if content is not None), "")


def _says_nothing(text: str) -> bool:
    words = comparable(text).split()
    return bool(GUESTS_OR_SOURCE.match(text)) or all(word in NEUTRAL or word.isdigit() for word in words)


def _versions(parts: Iterable[str]) -> dict[str, list[str]]:
    words = "\n".join(comparable(part) for part in parts)  # no phrase goes from one part into the next
    return {kind: found for kind, pattern in TELLING.items() if (found := pattern.findall(words))}


# Which of a search's hits is the wanted recording.
#
# The list gives a title and a duration, no artist; a hit gives a title, a channel and a duration in whole
# seconds. Nothing is fetched here; what a site says is hostile, and only ever compared.


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


def search(title: str, config: DownloadConfig, pace: Pace, *, again: bool = False) -> dict[str, Any]:
    """Search the site for `title`, as text whatever it looks like; `again` where that has failed before.

    Returns:
        `{"hits": [...]}`: the site's first `config.search_results` videos, each the fields of a `Hit`.

    Raises:
        SongError: The site did not answer; `status` says why.
        OperatorError: The site wants to see a human, or the run was stopped.
    """
    if not title.strip():
        raise SongError(Status.NO_MATCH, "the title is empty: nothing to search for")
    with pace.asking("search", again=again), tempfile.TemporaryDirectory() as workplace:
        found = _ask(title, config, Path(workplace))
    return {"hits": [asdict(hit_of(entry)) for entry in found]}


def _ask(title: str, config: DownloadConfig, workplace: Path) -> list[Any]:
    options = site_options(config, workplace)
    try:
        with yt_dlp_fails(workplace), YtDlp(options) as ydl:
            found: Any = ydl.extract_info(f"{config.search}{config.search_results}:{title}", download=False)
            return [entry for entry in found.get("entries") or [] if isinstance(entry, dict)]
    except SongError as error:
        if Status(error.status).retryable:
            raise
        # Without an answer nothing is known of the song, let alone for good.
        raise SongError(Status.SERVER_ERROR, error.message) from error


def hits_of(record: dict[str, Any]) -> list[Hit]:
    """The hits of what `search` returned."""
    return [Hit(**fields) for fields in record["hits"]]
