"""A song list that needs no file: made-up titles, some of them hostile."""

import csv
import itertools
from pathlib import Path

from tests.popdb.choice_wording import TITLE_WORDS

HOSTILE = (
    "22", "TRUE", "1979", "-rf", "--exec reboot", "../../etc/passwd", "file:///etc/passwd", "$(reboot)",
    "%(id)s", "http://127.0.0.1/watch/a", "samueltest5:x", "ytsearch5:x", "Captcha", "You are not a bot",
    "HTTP Error 404", "a,b;c&q=d#e?f", 'Say "Hello"', "line\nbreak", "=1+1", "Канатоходец", "夜に駆ける",
    "حبيبي", "No Space Left on Device",
)  # fmt: skip
TWICE = "River of Glass"  # two recordings of one name


def write_list(path: Path, songs: int) -> None:
    """A song list of so many made-up titles, the first of them hostile."""
    made_up = [" ".join(words) for words in itertools.permutations(TITLE_WORDS, 2)]
    titles = [TWICE, *HOSTILE, *made_up[:: len(made_up) // songs]][: songs - 1]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["song_name", "song_popularity", "song_duration_ms"])
        writer.writerows([title, 50, 150_000 + 1_000 * place] for place, title in enumerate([*titles, TWICE]))
