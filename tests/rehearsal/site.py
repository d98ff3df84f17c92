"""A local site that knows the songs of a list, and treats some of them badly.

Every title, and every video id, decides by itself what is sent for it: the same list gives the same site.
"""

import csv
import hashlib
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from samuel.popdb.songs import Song
from samuel.popdb.status import Status
from tests.popdb import choice_wording as wording
from tests.popdb.site import AT_ONCE, Answer, LocalSite, encoded
from tests.rehearsal.faults import FAULTS, Fault

# `download` settings that a test need not wait for, with a second try in the run.
DOWNLOAD: dict[str, Any] = {**AT_ONCE, "policy": "scored", "attempts": 2, "timeout_s": 6}
UNFIT_SHARE = 0.05
NOTE_S, NOTES = 0.5, 48
SEGMENTS = 4
SAMPLE_RATE = 44_100
HITS = 5
MOST_RIGHT = 3  # recordings of one name among the hits
ARTISTS = ("Kamo Risel", "The Tavens", "Lorda", "DJ Nyju", "Zedpha & Romi", "Quinbar")
# Wordings, and how many times as long as the song; all of them must be refused.
WRONG: dict[str, tuple[Sequence[str], float]] = {
    "cover": (wording.COVERS, 1.3),
    "karaoke": (wording.KARAOKE, 1.0),
    "live": (wording.LIVE, 1.6),
    "remix": (wording.REMIXES, 1.5),
    "slowed": (wording.SLOWED, 1.3),
    "instrumental": (wording.INSTRUMENTALS, 1.0),
    "compilation": (wording.COMPILATIONS, 12.0),
    "namesake": (("{a} - {t} (Official Video)", "{t}", "{t} - {a} (Lyrics)"), 1.7),
}
HOSTILE = (
    "22", "TRUE", "1979", "-rf", "--exec reboot", "../../etc/passwd", "file:///etc/passwd", "$(reboot)",
    "%(id)s", "http://127.0.0.1/watch/a", "samueltest5:x", "ytsearch5:x", "Captcha", "You are not a bot",
    "HTTP Error 404", "a,b;c&q=d#e?f", 'Say "Hello"', "line\nbreak", "=1+1", "Канатоходец", "夜に駆ける",
    "حبيبي", "No Space Left on Device",
)  # fmt: skip
TWICE = "River of Glass"  # two recordings of one name


class Request(NamedTuple):
    """A request that the site saw.

    Attributes:
        time_s: Monotonic clock.
        place: search, page, media or segment: the second segment of a media playlist.
        title: The song it was for; empty where the site has nothing there.
    """

    time_s: float
    place: str
    title: str


@dataclass
class ListSite(LocalSite):
    """A site for the songs of a list.

    Attributes:
        songs: Those that a search finds; no other.
        fault_share: Share of the titles with a fault.
        clip_s: Duration of what it sends, a multiple of 0.5 s; its hits state the list's duration.
        healed: True once the faults that can pass are over.
        log: The requests.
    """

    songs: Sequence[Song] = ()
    fault_share: float = 0.0
    clip_s: float = 10.0
    healed: bool = False
    log: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._durations_s: defaultdict[str, list[float]] = defaultdict(list)
        for song in self.songs:
            self._durations_s[song.title].append(song.duration_s or 0.0)
        self._titles = dict(sorted((_digest(title), title) for title in self._durations_s))
        titles = list(self._titles.values())  # in no order that the list knows
        faulty, unfit = (round(share * len(titles)) for share in (self.fault_share, UNFIT_SHARE))
        self.faults = {title: FAULTS[i % len(FAULTS)] for i, title in enumerate(titles[:faulty])}
        self.unfit = set(titles[faulty : faulty + unfit])
        self._asked: Counter[str] = Counter()
        self._notes = [_note(seed) for seed in range(NOTES)]

    def fault(self, title: str) -> Fault | None:
        """What is wrong with a song now."""
        fault = self.faults.get(title)
        return None if fault and self.healed and fault.status.retryable else fault

    def fault_name(self, title: str) -> str:
        """Name of what was wrong with a song from the start, and whether it lasts."""
        fault = self.faults.get(title)
        return f"{fault.name}, {'brief' if fault.brief else 'lasting'}" if fault else "none"

    def expected(self, title: str) -> Status:
        """What must become of a song that is asked for now, by a run that tries twice."""
        fault = self.fault(title)
        if fault and not fault.brief:
            return fault.status
        return Status.NO_MATCH if title in self.unfit else Status.OK

    def right(self, song: Song) -> str:
        """Id of the video that is the song."""
        return _video_id(song.title, self._durations_s[song.title].index(song.duration_s or 0.0))

    def clip(self, video_id: str) -> NDArray[np.float32]:
        """The sound of a video, (S, 2): notes of half a second, no two videos the same."""
        count = round(self.clip_s / NOTE_S)
        return np.concatenate(Random(video_id).choices(self._notes, k=count))  # noqa: S311

    def answer(self, target: str) -> Answer:
        parts = urlsplit(target)
        if parts.path == "/search":
            [title] = parse_qs(parts.query)["q"]
            return self._sent(target, "search", title, self._hits(title))
        kind, video_id, *number = parts.path.split("/")[1:]
        title = self._titles[video_id.partition("-")[0]]
        if kind == "watch":
            return self._sent(target, "page", title, self._page(video_id, title))
        if number:
            place = "segment" if number == ["1"] else "media"
            return self._sent(target, place, title, self._segment(video_id, int(number[0])))
        body = self._playlist(video_id) if self._segmented(title) else self._media(video_id)
        return self._sent(target, "media", title, Answer(body))

    def _sent(self, target: str, place: str, title: str, answer: Answer) -> Answer:
        """`answer`, or what the song's fault makes of it."""
        self.log.append(Request(time.monotonic(), place, title))
        self._asked[target] += 1
        fault = self.fault(title)
        if fault is None or fault.place != place or (fault.brief and self._asked[target] > 1):
            return answer
        return fault.spoil(answer)

    def _hits(self, title: str) -> Answer:
        found = uploads(title, self._durations_s.get(title, []), fit=title not in self.unfit)
        hits = [
            {
                "id": (video_id := _video_id(title, number)),
                "url": f"{self.base}/watch/{video_id}",
                "title": upload.title,
                "channel": upload.channel,
                "duration": max(1, round(upload.duration_s)),
            }
            for number, upload in enumerate(found)
        ]
        Random(title).shuffle(hits)  # noqa: S311
        return Answer(json.dumps(hits).encode())

    def _page(self, video_id: str, title: str) -> Answer:
        media = {"url": f"{self.base}/media/{video_id}", "ext": "wav", "vcodec": "none"}
        if self._segmented(title):
            media["protocol"] = "m3u8_native"
        page = {"id": video_id, "title": title, "duration": self.clip_s, **media}
        return Answer(json.dumps(page).encode())

    def _segmented(self, title: str) -> bool:
        return title in self.faults and self.faults[title].place == "segment"

    def _playlist(self, video_id: str) -> bytes:
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{self.clip_s:g}"]
        for number in range(SEGMENTS):
            lines += [f"#EXTINF:{self.clip_s / SEGMENTS},", f"{self.base}/media/{video_id}/{number}"]
        return "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()

    def _segment(self, video_id: str, number: int) -> Answer:
        body = self._media(video_id)
        size = -(-len(body) // SEGMENTS)
        return Answer(body[number * size : (number + 1) * size])

    def _media(self, video_id: str) -> bytes:
        return encoded(self.clip(video_id), SAMPLE_RATE, "WAV")


def _digest(title: str) -> str:
    return hashlib.sha256(title.encode()).hexdigest()[:12]


def _video_id(title: str, number: int) -> str:
    return f"{_digest(title)}-{number}"


def _note(seed: int) -> NDArray[np.float32]:
    """A chord of four voices with overtones, (S, 2), softened at both ends; quieter on the right."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(NOTE_S * SAMPLE_RATE)) / SAMPLE_RATE
    pitches_hz = 440 * 2 ** ((rng.choice(np.arange(36, 84), 4, replace=False) - 69) / 12)
    voices = [np.sin(2 * np.pi * h * p * time_s) / h for p in pitches_hz for h in (1, 2, 3)]
    envelope = np.minimum(1, 50 * np.minimum(time_s, time_s[::-1]))
    sound = (envelope * np.sum(voices, axis=0))[:, None] * [0.1, 0.05]
    return sound.astype(np.float32)


def write_list(path: Path, songs: int) -> None:
    """A song list of so many made-up titles, the first of them hostile."""
    made_up = [" ".join(words) for words in itertools.permutations(wording.TITLE_WORDS, 2)]
    titles = [TWICE, *HOSTILE, *made_up[:: len(made_up) // songs]][: songs - 1]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["song_name", "song_popularity", "song_duration_ms"])
        writer.writerows([title, 50, 150_000 + 1_000 * place] for place, title in enumerate([*titles, TWICE]))


@dataclass(frozen=True)
class Upload:
    """A video as a search shows it."""

    title: str
    channel: str
    duration_s: float


def uploads(title: str, durations_s: Sequence[float], *, fit: bool) -> list[Upload]:
    """The right one of each duration first, then wrong ones; only wrong ones, or none, unless `fit`.

    None for a title that no recording has.
    """
    rng = Random(title)  # noqa: S311
    right = [_right(title, duration_s, rng) for duration_s in durations_s[:MOST_RIGHT]] if fit else []
    if not durations_s or (not fit and rng.random() < 0.2):
        return []
    return right + [_wrong(title, durations_s[0], rng) for _ in range(HITS - len(right))]


def _right(title: str, duration_s: float, rng: Random) -> Upload:
    form, artist = rng.choice(list(wording.FORMS)), rng.choice(ARTISTS)
    name = rng.choice(wording.FORMS[form][1]).format(t=title, a=artist)
    channel = f"{artist} - Topic" if form == "topic" else artist
    return Upload(name, channel, duration_s + rng.uniform(-1.0, 1.5))


def _wrong(title: str, duration_s: float, rng: Random) -> Upload:
    templates, times = WRONG[rng.choice(list(WRONG))]
    artist, other = rng.sample(ARTISTS, 2)
    place, year = rng.choice(wording.PLACES), rng.randrange(1995, 2024)
    name = rng.choice(templates).format(t=title, a=artist, b=other, p=place, y=year)
    return Upload(name, other, duration_s * times * rng.uniform(0.98, 1.02))
