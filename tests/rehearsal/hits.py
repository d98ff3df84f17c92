"""What a search for a title finds: the song among others, clearly told apart, as its title decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.popdb import choice_wording as wording

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
