"""Labelled searches, made by rule from a song list, and what a policy makes of them.

    python -m tests.popdb.choice_cases song_data.csv

No site is asked: hits are invented, in words the author of the scorer knew. What is assumed of a site:

- Order: uniform. A real site tends to put the right hit first, so "first" looks worse here than there.
- Every second case holds the right recording, once; the others do not. All other hits are of the kinds in
  `WRONG`, drawn uniformly and with repetition. Where the list asks for a version (" - Live"), the plain song
  is one kind more.
- The right one is a topic upload (30 %), an official video (30 %), a lyric video (20 %), an official audio
  (10 %), or remastered or of high quality (10 %). Its duration less the list's, in seconds: topic N(0, 0.4);
  audio N(0, 0.8); remastered N(0, 1.5); lyric video N(0.5, 1.5), and in 15 % Exp(6) more; official video
  N(0.5, 1), and in 30 % Exp(7), in another 10 % U(8, 45) more. The site states whole seconds.
- A namesake, another artist's song of that title, is written like the right one and lasts as long as a random
  song of the list. Covers last exp(N(0, 0.1)) times as long; 30 % do not say that they are covers, nor do a
  third of the lyric videos of covers. Some live versions tell only a place, some remixes only a name.
- Another song lasts as long as the wanted one to N(0, 1) s; half of them share a word with its title.
- Artists are syllables; 3 % have a name that is a word of versions ("Live", "Cover Drive").
"""

import csv
import math
import re
import sys
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from samuel.config import DownloadConfig
from samuel.popdb.search import Hit, rank, read_hit
from tests.popdb import choice_wording as wording

REAL_LIST = Path(__file__).parents[3] / "shared" / "data" / "song_data.csv"
needs_real_list = pytest.mark.skipif(not REAL_LIST.is_file(), reason=f"the Kaggle list is not at {REAL_LIST}")
HITS, TUNING_SEED, HELD_OUT_SEED = 5, 1, 2
RIGHT = "right"


@dataclass(frozen=True)
class Row:
    """A song of the list."""

    title: str
    duration_s: float


@dataclass(frozen=True)
class Case:
    """A search: what was wanted, what came, of which kinds, and which is right (None: none of them)."""

    title: str
    duration_s: float
    hits: tuple[Hit, ...]
    kinds: tuple[str, ...]
    right: int | None


@dataclass(frozen=True)
class Song:
    """A row taken apart, `Core (feat. Guest) - Version`, with an artist to it."""

    core: str
    guest: str
    version: str
    artist: str
    duration_s: float

    @property
    def name(self) -> str:
        return f"{self.core} ({self.version})" if self.version else self.core

    def by(self, artist: str, duration_s: float) -> "Song":
        return replace(self, guest="", artist=artist, duration_s=duration_s)


@dataclass(frozen=True)
class Upload:
    title: str
    channel: str
    verified: bool
    duration_s: float


def read_rows(path: Path) -> list[Row]:
    """The songs of a list, each title and duration once, in its order."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = [(cells["song_name"], float(cells["song_duration_ms"])) for cells in csv.DictReader(file)]
    return [Row(title, milliseconds / 1000) for title, milliseconds in dict.fromkeys(found) if title.strip()]


def synthetic_rows(count: int = 400, seed: int = 0) -> list[Row]:
    """A list of our own: invented titles and some awkward ones, lognormal durations about 211 s."""
    rng = Random(seed)  # noqa: S311
    titles: dict[str, None] = dict.fromkeys(wording.AWKWARD_TITLES)
    while len(titles) < count:
        words = rng.sample(wording.TITLE_WORDS, 3)
        titles[rng.choice(wording.TITLE_SHAPES).format(*words) + rng.choice(wording.TITLE_ENDS)] = None
    return [Row(title, round(211 * math.exp(rng.gauss(0, 0.22)), 3)) for title in titles]


def halves(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """(to tune on, held out): a title is on one side only, whatever the rest of the list."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[zlib.crc32(" ".join(row.title.casefold().split()).encode()) % 2].append(row)
    return sides


def cases(rows: Sequence[Row], count: int, seed: int) -> list[Case]:
    """`count` searches for songs of `rows`; every second one has the right recording among its hits."""
    rng, world = Random(seed), World(rows)  # noqa: S311
    return [_case(world, rng, with_right=index % 2 == 0) for index in range(count)]


def _case(world: "World", rng: Random, *, with_right: bool) -> Case:
    row = rng.choice(world.rows)
    song = _song(row, rng)
    kinds = [*WRONG, "plain"] if song.version else list(WRONG)
    drawn = [rng.choice(kinds) for _ in range(HITS)]
    if with_right:
        drawn[rng.randrange(HITS)] = RIGHT
    makers = {**WRONG, RIGHT: _right, "plain": _plain}
    hits = tuple(read_hit(_entry(makers[kind](world, song, rng), rng)) for kind in drawn)
    return Case(row.title, row.duration_s, hits, tuple(drawn), drawn.index(RIGHT) if with_right else None)


def _entry(upload: Upload, rng: Random) -> dict[str, Any]:
    video_id = f"{rng.getrandbits(44):011x}"
    return {
        "id": video_id,
        "url": f"https://www.youtube.com/watch?v={video_id}",
        "ie_key": "Youtube",
        "title": upload.title,
        "channel": upload.channel,
        "duration": float(max(1, round(upload.duration_s))),
        "live_status": None,
        "view_count": int(10 ** rng.uniform(2, 9)),
        "channel_is_verified": True if upload.verified else None,
    }


class World:
    """What the rules draw from."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.sharing: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            for word in set(_words(row.title)):
                self.sharing[word].append(row)

    def other_title(self, title: str, rng: Random) -> str:
        """Another title of the list, in half of the cases one that shares a word where there is one."""
        words = _words(title)
        shared = self.sharing[rng.choice(words)] if words and rng.random() < 0.5 else []
        others = [row for row in shared if _words(row.title) != words]
        others = others or [row for row in rng.choices(self.rows, k=50) if _words(row.title) != words]
        return rng.choice(others).title


def _words(title: str) -> list[str]:
    return re.findall(r"\w+", re.sub(r"[(\[].*?[)\]]| - .*", "", title.casefold()))


def _song(row: Row, rng: Random) -> Song:
    guest = re.search(r"\s*[(\[](?:feat\.|ft\.|featuring|with) (.+?)[)\]]", row.title)
    without = row.title.replace(guest[0], "") if guest else row.title
    core, _, version = without.partition(" - ")
    if re.search(wording.SAME_RECORDING, version.casefold()) and rng.random() < 0.7:
        version = ""
    return Song(core, guest[1] if guest else "", version, _artist(rng), row.duration_s)


def _artist(rng: Random) -> str:
    if rng.random() < 0.03:
        return rng.choice(wording.TRAP_ARTISTS)
    syllables = [[rng.choice(wording.SYLLABLES) for _ in range(rng.choice((2, 2, 3)))] for _ in range(2)]
    return rng.choice(wording.ARTIST_SHAPES).format(*("".join(name).title() for name in syllables))


# --- uploads of a recording as it is ---


def _studio(song: Song, rng: Random) -> tuple[Upload, float]:
    """An upload of the song as recorded, and how many seconds it lasts longer than the recording."""
    form = rng.choices(list(wording.FORMS), weights=[share for share, _ in wording.FORMS.values()])[0]
    name, artist = _with_guest(song, form, rng)
    channel, verified = _own_channel(song.artist, rng)
    if form == "topic":
        channel, verified = f"{song.artist} - Topic", False
    elif form == "lyrics":
        channel = rng.choice(wording.FAN_CHANNELS).format(a=song.artist, b=_artist(rng))
        verified, name = rng.random() < 0.15, _careless(name, rng)
    extra_s = EXTRA_S[form](rng)
    title = rng.choice(wording.FORMS[form][1]).format(t=name, a=artist)
    return Upload(title, channel, verified, song.duration_s + extra_s), extra_s


def _with_guest(song: Song, form: str, rng: Random) -> tuple[str, str]:
    if not song.guest:
        return song.name, song.artist
    place = rng.random()
    if form == "topic":
        return f"{song.name} (feat. {song.guest})", song.artist
    if place < 0.3:
        return song.name, f"{song.artist} ft. {song.guest}"
    return (f"{song.name} ft. {song.guest}" if place < 0.7 else song.name), song.artist


def _own_channel(artist: str, rng: Random) -> tuple[str, bool]:
    place = rng.random()
    if place < 0.35:
        return artist.replace(" ", "") + "VEVO", True
    if place < 0.85:
        return artist + rng.choice(["", "", " Official"]), rng.random() < 0.8
    return rng.choice(wording.LABELS), rng.random() < 0.5


def _careless(text: str, rng: Random) -> str:
    place = rng.random()
    if place < 0.1:
        return text.upper()
    if place < 0.2:
        return text.lower()
    if place < 0.3:  # without accents and apostrophes
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        return unicodedata.normalize("NFC", re.sub("['’]", "", text)) or text
    if place < 0.33 and len(text) > 5:  # a slip of the finger
        slip = rng.randrange(1, len(text) - 2)
        return text[:slip] + text[slip + 1] + text[slip] + text[slip + 2 :]
    return text


def _video_extra_s(rng: Random) -> float:
    place = rng.random()
    longer = rng.expovariate(1 / 7) if place < 0.3 else rng.uniform(8, 45) if place < 0.4 else 0.0
    return rng.gauss(0.5, 1) + longer


EXTRA_S: dict[str, Callable[[Random], float]] = {
    "topic": lambda rng: rng.gauss(0, 0.4),
    "video": _video_extra_s,
    "audio": lambda rng: rng.gauss(0, 0.8),
    "lyrics": lambda rng: rng.gauss(0.5, 1.5) + (rng.expovariate(1 / 6) if rng.random() < 0.15 else 0.0),
    "remastered": lambda rng: rng.gauss(0, 1.5),
}


# --- kinds of hits ---

Lasting = Callable[[float, Random], float]
Maker = Callable[[World, Song, Random], Upload]


def _right(_: World, song: Song, rng: Random) -> Upload:
    return _studio(song, rng)[0]


def _namesake(world: World, song: Song, rng: Random) -> Upload:
    return _studio(song.by(_artist(rng), rng.choice(world.rows).duration_s), rng)[0]


def _other_song(world: World, song: Song, rng: Random) -> Upload:
    lasting_s = song.duration_s + rng.gauss(0, 1)
    other = _song(Row(world.other_title(song.core, rng), lasting_s), rng)
    upload, _ = _studio(other.by(rng.choice([song.artist, other.artist]), lasting_s), rng)
    return replace(upload, duration_s=lasting_s)


def _plain(_: World, song: Song, rng: Random) -> Upload:
    return _studio(replace(song, version="", duration_s=_times(0, 0.15)(song.duration_s, rng)), rng)[0]


def _cover(world: World, song: Song, rng: Random) -> Upload:
    if rng.random() < 0.3:
        return _studio(song.by(_artist(rng), _times(0, 0.1)(song.duration_s, rng)), rng)[0]
    return _labelled(wording.COVERS, wording.FAN_CHANNELS, _times(0, 0.1))(world, song, rng)


def _changed(world: World, song: Song, rng: Random) -> Upload:
    templates, lasting = rng.choice([
        (wording.SLOWED, _times(0.18, 0.05)),
        (wording.SPED_UP, _times(-0.18, 0.05)),
        (wording.EFFECTS, _plus(0, 1.5)),
    ])  # fmt: skip
    return _labelled(templates, wording.FAN_CHANNELS, lasting)(world, song, rng)


def _labelled(templates: Sequence[str], channels: Sequence[str], lasting: Lasting) -> Maker:
    def make(_: World, song: Song, rng: Random) -> Upload:
        names = {"t": _careless(song.core, rng), "a": song.artist, "b": _artist(rng)}
        title = rng.choice(templates).format(
            **names, p=rng.choice(wording.PLACES), y=rng.randrange(1995, 2024)
        )
        channel = rng.choice(channels).format(**names, p=rng.choice(wording.PLACES))
        return Upload(title, channel, rng.random() < 0.3, lasting(song.duration_s, rng))

    return make


def _times(mean: float, spread: float) -> Lasting:
    return lambda duration_s, rng: duration_s * math.exp(rng.gauss(mean, spread))


def _plus(mean: float, spread: float) -> Lasting:
    return lambda duration_s, rng: duration_s + rng.gauss(mean, spread)


WRONG: dict[str, Maker] = {
    "cover": _cover,
    "namesake": _namesake,
    "other song": _other_song,
    "karaoke": _labelled(wording.KARAOKE, wording.KARAOKE_CHANNELS, _plus(3, 5)),
    "live": _labelled(wording.LIVE, wording.LIVE_CHANNELS, _times(0.08, 0.12)),
    "remix": _labelled(wording.REMIXES, wording.REMIX_CHANNELS, _times(0.05, 0.2)),
    "slowed": _changed,
    "instrumental": _labelled(wording.INSTRUMENTALS, wording.FAN_CHANNELS, _plus(0, 2)),
    "lyric video of a cover": _labelled(wording.LYRIC_COVERS, wording.FAN_CHANNELS, _times(0, 0.1)),
    "compilation": _labelled(
        wording.COMPILATIONS,
        wording.FAN_CHANNELS,
        lambda _, rng: rng.choice([rng.uniform(240, 900), rng.uniform(900, 7200)]),
    ),
}


# --- what a policy makes of them ---

WAYS = ("taken right", "taken wrong", "refused", "absent: refused", "absent: taken wrong")


def taken(case: Case, config: DownloadConfig) -> int | None:
    """Which hit is taken; None where all are refused."""
    best = rank(case.title, case.duration_s, case.hits, config)[0]
    return None if best.refusal else case.hits.index(best.hit)


def tally(made: Iterable[Case], config: DownloadConfig) -> tuple[dict[str, float], Counter[str]]:
    """(percent of its half for each of `WAYS`, how often which kind was taken wrongly)."""
    ways, errors, half = Counter[str](), Counter[str](), Counter[bool]()
    for case in made:
        there, chosen = case.right is not None, taken(case, config)
        half[there] += 1
        way = "refused" if chosen is None else "taken right" if chosen == case.right else "taken wrong"
        ways[way if there else f"absent: {way}"] += 1
        if chosen not in (None, case.right):
            errors[case.kinds[chosen]] += 1
    return {way: 100 * ways[way] / half[not way.startswith("absent")] for way in WAYS}, errors


def main(path: str, count: int = 4000) -> None:
    """Print what both policies make of held-out cases."""
    made = cases(halves(read_rows(Path(path)))[1], count, HELD_OUT_SEED)
    policies: tuple[Any, ...] = ("first", "scored")
    found = {policy: tally(made, DownloadConfig(policy=policy)) for policy in policies}
    lines = [f"{'percent of the half with, or without, a right hit':50}" + "".join(f"{n:>10}" for n in found)]
    lines += [f"{way:50}" + "".join(f"{ways[way]:10.1f}" for ways, _ in found.values()) for way in WAYS]
    kinds = sorted([*WRONG, "plain"], key=lambda kind: -found["scored"][1][kind])
    lines += [
        f"{'taken wrongly: ' + kind:50}" + "".join(f"{errors[kind]:10}" for _, errors in found.values())
        for kind in kinds
    ]
    print(f"{count} held-out cases", *lines, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
