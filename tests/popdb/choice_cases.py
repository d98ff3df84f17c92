"""Labelled searches, made by rule from a song list, and what a policy makes of them.

    python -m tests.popdb.choice_cases song_data.csv

No site is asked: hits are invented, in words the author of the scorer knew, in uniform order. Every second
case holds the right recording, once; the other hits are of the kinds in `WRONG`, drawn uniformly and with
repetition. Where the list asks for a version (" - Live"), the plain song is one kind more. A namesake is
written like the right one and lasts as long as a random song of the list; 30 % of the covers, and a third of
the lyric videos of covers, do not say that they are covers; another song lasts as long as the wanted one to
N(0, 1) s, and half of them share a word with its title. The site states whole seconds.
"""

import csv
import math
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from samuel.config import DownloadConfig
from samuel.popdb.search import Hit, rank, read_hit
from tests.popdb.choice_wording import wording

REAL_LIST = Path(__file__).parents[3] / "shared" / "data" / "song_data.csv"
needs_real_list = pytest.mark.skipif(not REAL_LIST.is_file(), reason=f"the Kaggle list is not at {REAL_LIST}")
HITS, HELD_OUT_SEED = 5, 2


class Row(NamedTuple):
    """A song of the list, `Core (feat. Guest) - Version`."""

    title: str
    duration_s: float


@dataclass(frozen=True)
class Case:
    """A search: what was wanted, what came, of which kinds, and which is right (None: none of them)."""

    wanted: Row
    hits: tuple[Hit, ...]
    kinds: tuple[str, ...]
    right: int | None


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


def held_out(rows: Iterable[Row]) -> list[Row]:
    """The half on which nothing was tuned; a title is in it or not, whatever the rest of the list."""
    return [row for row in rows if zlib.crc32(" ".join(row.title.casefold().split()).encode()) % 2]


def cases(rows: Sequence[Row], count: int, seed: int) -> list[Case]:
    """`count` searches for songs of `rows`; every second one has the right recording among its hits."""
    rng, sharing = Random(seed), defaultdict[str, list[Row]](list)  # noqa: S311
    for row in rows:
        for word in set(_words(row.title)):
            sharing[word].append(row)
    made = []
    for index in range(count):
        wanted = rng.choice(rows)
        song = _Song(rng, rows, sharing, *_parts(wanted, rng), wanted.duration_s)
        drawn = [rng.choice([*WRONG, *["plain"] * bool(song.version)]) for _ in range(HITS)]
        right = rng.randrange(HITS) if index % 2 == 0 else None
        if right is not None:
            drawn[right] = "right"
        hits = tuple(_hit(MAKERS[kind](song), rng) for kind in drawn)
        made.append(Case(wanted, hits, tuple(drawn), right))
    return made


def _words(title: str) -> list[str]:
    return re.findall(r"\w+", re.sub(r"[(\[].*?[)\]]| - .*", "", title.casefold()))


def _parts(row: Row, rng: Random) -> tuple[str, str, str]:
    """(title, version, artist); an upload may leave out what names the same recording."""
    core, _, version = re.sub(r"\s*[(\[](?:feat\.|ft\.|with) .+?[)\]]", "", row.title).partition(" - ")
    same = re.search(wording.SAME_RECORDING, version.casefold()) and rng.random() < 0.7
    return core, "" if same else version, _artist(rng)


def _artist(rng: Random) -> str:
    if rng.random() < 0.03:
        return rng.choice(wording.TRAP_ARTISTS)
    names = ("".join(rng.choices(wording.SYLLABLES, k=rng.choice((2, 2, 3)))).title() for _ in range(2))
    return rng.choice(wording.ARTIST_SHAPES).format(*names)


def _hit(upload: "Upload", rng: Random) -> Hit:
    title, channel, lasting_s = upload
    video_id, duration_s = f"{rng.getrandbits(44):011x}", float(max(1, round(lasting_s)))
    url = f"https://www.youtube.com/watch?v={video_id}"
    entry = {"id": video_id, "url": url, "ie_key": "Youtube", "title": title, "duration": duration_s}
    return read_hit({**entry, "channel": channel, "channel_is_verified": rng.random() < 0.3 or None})


Upload = tuple[str, str, float]


class _Song(NamedTuple):
    """The wanted song, and what wrong hits are drawn from."""

    rng: Random
    rows: Sequence[Row]
    sharing: defaultdict[str, list[Row]]
    core: str
    version: str
    artist: str
    duration_s: float


def _recording(song: _Song) -> Upload:
    """An upload of a recording as it is."""
    rng, artist = song.rng, song.artist
    form = rng.choices(list(wording.FORMS), weights=[share for share, _ in wording.FORMS.values()])[0]
    name = f"{song.core} ({song.version})" if song.version else song.core
    channel = artist.replace(" ", "") + "VEVO" if rng.random() < 0.35 else artist
    if form in ("topic", "lyrics"):
        channel = f"{artist} - Topic" if form == "topic" else rng.choice(wording.FAN_CHANNELS)
    if form == "lyrics":
        channel = channel.format(a=artist, b=_artist(rng))
        name = rng.choice([name] * 7 + [name.upper(), name.lower(), re.sub("['’]", "", name)])
    spread_s, rare, longer_s = wording.EXTRA_S[form]
    extra_s = rng.gauss(0, spread_s) + (rng.expovariate(1 / longer_s) if rng.random() < rare else 0.0)
    title = rng.choice(wording.FORMS[form][1]).format(t=name, a=artist)
    return title, channel, song.duration_s + extra_s


def _namesake(song: _Song) -> Upload:
    lasting_s = song.rng.choice(song.rows).duration_s
    return _recording(song._replace(artist=_artist(song.rng), duration_s=lasting_s))


def _other_song(song: _Song) -> Upload:
    rng, words = song.rng, _words(song.core)
    shared = song.sharing[rng.choice(words)] if words and rng.random() < 0.5 else []
    others = [row for row in shared if _words(row.title) != words] or rng.choices(song.rows, k=1)
    core, version, artist = _parts(rng.choice(others), rng)
    other = song._replace(core=core, version=version, artist=rng.choice([song.artist, artist]))
    return (*_recording(other)[:2], song.duration_s + rng.gauss(0, 1))


def _plain(song: _Song) -> Upload:
    return _recording(
        song._replace(version="", duration_s=song.duration_s * math.exp(song.rng.gauss(0, 0.15)))
    )


def _cover(song: _Song) -> Upload:
    if song.rng.random() < 0.3:
        lasting_s = song.duration_s * math.exp(song.rng.gauss(0, 0.1))
        return _recording(song._replace(artist=_artist(song.rng), duration_s=lasting_s))
    return _labelled(wording.COVERS, wording.FAN_CHANNELS, 0, 0.1)(song)


def _labelled(
    templates: Sequence[str], channels: Sequence[str], mean: float, spread: float
) -> Callable[[_Song], Upload]:
    """Hits that say what they are, exp(N(mean, spread)) times as long as the song."""

    def make(song: _Song) -> Upload:
        rng = song.rng
        names = {"t": song.core, "a": song.artist, "b": _artist(rng), "p": rng.choice(wording.PLACES)}
        title = rng.choice(templates).format(**names, y=rng.randrange(1995, 2024))
        lasting_s = song.duration_s * math.exp(rng.gauss(mean, spread))
        return title, rng.choice(channels).format(**names), lasting_s

    return make


FANS = wording.FAN_CHANNELS
WRONG: dict[str, Callable[[_Song], Upload]] = {
    "cover": _cover,
    "namesake": _namesake,
    "other song": _other_song,
    "karaoke": _labelled(wording.KARAOKE, wording.KARAOKE_CHANNELS, 0.015, 0.025),
    "live": _labelled(wording.LIVE, wording.LIVE_CHANNELS, 0.08, 0.12),
    "remix": _labelled(wording.REMIXES, wording.REMIX_CHANNELS, 0.05, 0.2),
    "slowed": _labelled((*wording.SLOWED, *wording.EFFECTS), FANS, 0.05, 0.1),
    "sped up": _labelled(wording.SPED_UP, FANS, -0.18, 0.05),
    "instrumental": _labelled(wording.INSTRUMENTALS, FANS, 0, 0.01),
    "lyric video of a cover": _labelled(wording.LYRIC_COVERS, FANS, 0, 0.1),
    "compilation": _labelled(wording.COMPILATIONS, FANS, 0.9, 0.5),
}
MAKERS = {**WRONG, "right": _recording, "plain": _plain}


WAYS = ("taken right", "taken wrong", "refused", "absent: refused", "absent: taken wrong")


def tally(made: Iterable[Case], config: DownloadConfig) -> tuple[dict[str, float], Counter[str]]:
    """(percent of its half for each of `WAYS`, how often which kind was taken wrongly)."""
    ways, errors, half = Counter[str](), Counter[str](), Counter[bool]()
    for case in made:
        best, there = rank(*case.wanted, case.hits, config)[0], case.right is not None
        chosen = None if best.refusal else case.hits.index(best.hit)
        half[there] += 1
        way = "refused" if chosen is None else "taken right" if chosen == case.right else "taken wrong"
        ways[way if there else f"absent: {way}"] += 1
        if chosen not in (None, case.right):
            errors[case.kinds[chosen]] += 1
    return {way: 100 * ways[way] / half[not way.startswith("absent")] for way in WAYS}, errors


def main(path: str, count: int = 4000) -> None:
    """Print what both policies make of held-out cases."""
    made = cases(held_out(read_rows(Path(path))), count, HELD_OUT_SEED)
    policies: tuple[Any, ...] = ("first", "scored")
    found = {policy: tally(made, DownloadConfig(policy=policy)) for policy in policies}
    print(f"{f'{count} held-out cases, percent of their half':50}", *(f"{name:>10}" for name in found))  # noqa: T201
    for way in WAYS:
        print(f"{way:50}", *(f"{ways[way]:10.1f}" for ways, _ in found.values()))  # noqa: T201
    for kind in (*WRONG, "plain"):
        print(f"{'taken wrongly: ' + kind:50}", *(f"{errors[kind]:10}" for _, errors in found.values()))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
