"""Two titles of one song: the list's and a video's.

A video's title is taken apart at dashes, bars and quotes, and its groups in brackets are told from the rest:

    Artist ft. Guest - Title (Live at X) [HD] | Official Video
    └──── segment ─┘   └── segment, groups ─┘   └─ segment ──┘

Guests, and groups that say nothing of the recording ([HD]), go on both sides. Likeness is that of the best
run of segments. Words that make it another version ("live") are looked for apart from that, as words. A title
without a letter or a digit ("+") is compared as it is.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from rapidfuzz import fuzz

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
