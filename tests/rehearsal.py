"""Rehearse the acquisition of a song list: the real command, real yt-dlp, a local site with faults.

    python -m tests.rehearsal --list song_data.csv --songs 200 --faults 0.15 --heal-after-first

Every title, and every video id, decides by itself what is sent for it: the same list gives the same site.
Every video has a sound of its own, so no two songs are the same recording.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray

from samuel.config import parse
from samuel.popdb.songs import Song, list_songs
from samuel.popdb.status import Status
from tests.popdb.choice_wording import wording
from tests.popdb.site import AT_ONCE, PLUGIN_FOLDER, Answer, LocalSite, encoded, serving

# --- what goes wrong, and what must become of the song ---

Spoil = Callable[[Answer], Answer]  # the right answer → the one that is sent


@dataclass(frozen=True)
class Fault:
    """What the site does to a song."""

    name: str
    place: str  # which requests: search, page or media; segment: of media in segments, the second
    status: Status  # what must become of the song as long as the fault lasts
    spoil: Spoil
    brief: bool = False  # the first request of each address alone is spoilt


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


def _instead(body: bytes) -> Spoil:
    return lambda _: Answer(body)


FINAL = (
    Fault("page 404", "page", Status.UNAVAILABLE, _http(404)),
    Fault("video unavailable", "page", Status.UNAVAILABLE, _page(error="Video unavailable")),
    Fault("geo-restricted", "page", Status.GEO_BLOCKED, _page(geo_restricted="Blocked where you are")),
    Fault("age-gated", "page", Status.AGE_GATED, _page(error="Sign in to confirm your age")),
    Fault("media 404", "media", Status.UNAVAILABLE, _http(404)),
    Fault("corrupt audio", "media", Status.DECODE_FAILED, _instead(bytes(range(256)) * 100)),
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
    Fault("wrong length", "media", Status.NETWORK, lambda a: replace(a, length=len(a.body) + 999)),
    Fault("web page", "media", Status.SERVER_ERROR, _instead(b"<!DOCTYPE html><p>Sorry")),
    Fault("slow", "media", Status.NETWORK, lambda a: replace(a, bytes_per_s=len(a.body) / 60)),
    Fault("missing segment", "segment", Status.NETWORK, _http(404)),
)
# In the order in which they are given out, each as often as the others.
FAULTS = (*FINAL, *PASSING, *(replace(fault, brief=True) for fault in PASSING))

# --- the site ---

# `download` settings that a test need not wait for, with a second try in the run.
DOWNLOAD: dict[str, Any] = {**AT_ONCE, "policy": "scored", "attempts": 2, "timeout_s": 4}
UNFIT_SHARE = 0.05
NOTE_S, NOTES = 0.5, 48
SEGMENTS, HITS = 4, 5
MOST_RIGHT = 3  # recordings of one name among the hits
SAMPLE_RATE = 44_100
ARTISTS = ("Kamo Risel", "The Tavens", "Lorda", "DJ Nyju", "Zedpha & Romi", "Quinbar")
# Wordings, and how many times as long as the song; all of them must be refused.
WRONG: tuple[tuple[Sequence[str], float], ...] = (
    (wording.COVERS, 1.3),
    (wording.KARAOKE, 1.0),
    (wording.LIVE, 1.6),
    (wording.REMIXES, 1.5),
    (wording.SLOWED, 1.3),
    (wording.INSTRUMENTALS, 1.0),
    (wording.COMPILATIONS, 12.0),
    (("{a} - {t} (Official Video)", "{t}", "{t} - {a} (Lyrics)"), 1.7),  # a namesake
)
HOSTILE = (
    "22", "TRUE", "1979", "-rf", "--exec reboot", "../../etc/passwd", "file:///etc/passwd", "$(reboot)",
    "%(id)s", "http://127.0.0.1/watch/a", "samueltest5:x", "ytsearch5:x", "Captcha", "You are not a bot",
    "HTTP Error 404", "a,b;c&q=d#e?f", 'Say "Hello"', "line\nbreak", "=1+1", "Канатоходец", "夜に駆ける",
    "حبيبي", "No Space Left on Device",
)  # fmt: skip
TWICE = "River of Glass"  # two recordings of one name


class Request(NamedTuple):
    """A request that the site saw."""

    time_s: float  # monotonic clock
    place: str  # search, page, media or segment: the second segment of a media playlist
    title: str  # the song it was for


@dataclass
class ListSite(LocalSite):
    """A site for the songs of a list."""

    songs: Sequence[Song] = ()  # those that a search finds; no other
    fault_share: float = 0.0  # of the titles
    clip_s: float = 10.0  # of what it sends, a multiple of 0.5 s; its hits state the list's duration
    healed: bool = False  # the faults that can pass are over
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
        segmented = title in self.faults and self.faults[title].place == "segment"
        media = encoded(self.clip(video_id), SAMPLE_RATE, "WAV")
        if kind == "watch":
            page = {"url": f"{self.base}/media/{video_id}", "ext": "wav", "vcodec": "none", "title": title}
            page |= {"protocol": "m3u8_native"} if segmented else {}
            body = json.dumps({"id": video_id, "duration": self.clip_s, **page}).encode()
            return self._sent(target, "page", title, Answer(body))
        if number:
            size, first = -(-len(media) // SEGMENTS), int(number[0])
            place = "segment" if first == 1 else "media"
            return self._sent(target, place, title, Answer(media[first * size : (first + 1) * size]))
        if segmented:
            lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{self.clip_s:g}"]
            for first in range(SEGMENTS):
                lines += [f"#EXTINF:{self.clip_s / SEGMENTS},", f"{self.base}/media/{video_id}/{first}"]
            media = "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()
        return self._sent(target, "media", title, Answer(media))

    def _sent(self, target: str, place: str, title: str, answer: Answer) -> Answer:
        """`answer`, or what the song's fault makes of it."""
        self.log.append(Request(time.monotonic(), place, title))
        self._asked[target] += 1
        fault = self.fault(title)
        if fault is None or fault.place != place or (fault.brief and self._asked[target] > 1):
            return answer
        return fault.spoil(answer)

    def _hits(self, title: str) -> Answer:
        """The right one of each duration, and wrong ones; only wrong ones, or none, of an unfit title."""
        durations_s, rng, fit = self._durations_s.get(title, []), Random(title), title not in self.unfit  # noqa: S311
        uploads = [_right(title, duration_s, rng) for duration_s in durations_s[:MOST_RIGHT] if fit]
        if durations_s and (fit or rng.random() > 0.2):
            uploads += [_wrong(title, durations_s[0], rng) for _ in range(HITS - len(uploads))]
        hits = [{"id": _video_id(title, number), **upload} for number, upload in enumerate(uploads)]
        rng.shuffle(hits)
        return Answer(json.dumps([{"url": f"{self.base}/watch/{hit['id']}", **hit} for hit in hits]).encode())


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
    return ((envelope * np.sum(voices, axis=0))[:, None] * [0.1, 0.05]).astype(np.float32)


def _right(title: str, duration_s: float, rng: Random) -> dict[str, Any]:
    form, artist = rng.choice(list(wording.FORMS)), rng.choice(ARTISTS)
    name = rng.choice(wording.FORMS[form][1]).format(t=title, a=artist)
    channel = f"{artist} - Topic" if form == "topic" else artist
    return {"title": name, "channel": channel, "duration": round(duration_s + rng.uniform(-1.0, 1.5))}


def _wrong(title: str, duration_s: float, rng: Random) -> dict[str, Any]:
    templates, times = rng.choice(WRONG)
    artist, other = rng.sample(ARTISTS, 2)
    place, year = rng.choice(wording.PLACES), rng.randrange(1995, 2024)
    name = rng.choice(templates).format(t=title, a=artist, b=other, p=place, y=year)
    return {"title": name, "channel": other, "duration": round(duration_s * times * rng.uniform(0.98, 1.02))}


def write_list(path: Path, songs: int) -> None:
    """A song list of so many made-up titles, the first of them hostile."""
    made_up = [" ".join(words) for words in itertools.permutations(wording.TITLE_WORDS, 2)]
    titles = [TWICE, *HOSTILE, *made_up[:: len(made_up) // songs]][: songs - 1]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["song_name", "song_popularity", "song_duration_ms"])
        writer.writerows([title, 50, 150_000 + 1_000 * place] for place, title in enumerate([*titles, TWICE]))


# --- the command ---


def main() -> int:
    """Run the rehearsal; the exit code of the first command that fails, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__)
    parser.add_argument("--list", type=Path, help="the song list, a CSV file; none: made-up titles")
    parser.add_argument("--songs", type=int, default=200, help="so many songs of it")
    parser.add_argument("--faults", type=float, default=0.15, help="share of the songs with a fault")
    parser.add_argument("--workers", type=int, default=2, help="songs in hand at a time")
    parser.add_argument("--clip-s", type=float, default=10.0, help="duration of what the site sends")
    parser.add_argument(
        "--heal-after-first", action="store_true", help="a second run, without faults that pass"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        data = Path(folder)
        if options.list is None:
            options.list = data / "songs.csv"
            write_list(options.list, options.songs)
        values: dict[str, Any] = {
            "data": folder,
            "songs": {"source": "csv", "path": str(options.list.resolve()), "limit": options.songs},
            "download": {**DOWNLOAD, "workers": options.workers},
            "retention": {"check_space": False},  # the site's audio is shorter than the list says
        }
        (data / "settings.json").write_text(json.dumps(values))
        songs = list_songs(parse(values).songs, data).songs
        site = ListSite("", songs=songs, fault_share=options.faults, clip_s=options.clip_s)
        stack.enter_context(serving(site))
        for number in range(1 + options.heal_after_first):
            site.healed = number > 0
            print(f"\nrun {number + 1}", flush=True)  # noqa: T201
            if code := run(data, site, songs):
                return code
    return 0


def run(data: Path, site: ListSite, songs: Sequence[Song]) -> int:
    """Run the command once and print what it asked for and how the songs ended; its exit code."""
    paths = [str(PLUGIN_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"SAMUEL_TEST_SITE": site.base, "NO_PROXY": "*"}
    command = [sys.executable, "-m", "samuel.cli", "download", "--settings", str(data / "settings.json")]
    start, began_s = len(site.log), time.monotonic()
    code = subprocess.run(command, env=environment, check=False).returncode
    requests, took_s = site.log[start:], time.monotonic() - began_s
    asked = Counter(request.place for request in requests)
    counts = ", ".join(f"{asked[place]:,} {place}" for place in ("search", "page", "media", "segment"))
    lines = [f"  exit code {code}, {took_s:.1f} s", f"  requests  {counts}"]
    if requests:
        first_s = requests[0].time_s - began_s
        rate = len(songs) / (took_s - first_s)
        lines.append(f"  speed     {rate:.2f} songs/s, after {first_s:.1f} s until the first request")
    if not code:
        rows, listed = pq.read_table(data / "songs.parquet").to_pylist(), {s.song_id: s for s in songs}
        kept = [row for row in rows if row["video_id"]]
        recordings = len({row["recording"] for row in rows if row["recording"]})
        differing = [row for row in rows if row["status"] != site.expected(row["title"])]
        others = [row for row in kept if row["video_id"] != site.right(listed[row["song_id"]])]
        lines += [
            f"  outcomes  {len(rows):,} songs, {len(differing):,} not as the site has it",
            f"  audio     of {len(kept):,}, {recordings:,} recordings; {len(others):,} of another video",
        ]
        for row in [*differing, *others][:20]:
            lines.append(
                f"    {row['title']!r} ({site.fault_name(row['title'])}): {row['status']}, {row['message']}"
            )
    print("\n".join(lines), flush=True)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
