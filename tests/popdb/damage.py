"""A small dataset, every way in which it can be damaged, and what `verify` says of each, line for line.

The dataset has two shards, `a-000 a-001 a-002 b-000` and `c-000 c-001`. Songs a and c are
trained on, b is held out.
"""

import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from samuel.config import Settings
from samuel.popdb.dataset import Popdb, content_digest, open_popdb
from samuel.popdb.shards import pair_sha256
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import INDEX_SCHEMA, SONGS_SCHEMA, table_bytes
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, failed_song, flip_bit, small_settings

ROW_BYTES = 64 * FRAMES * 2
OUTSIDE = "../../outside.safetensors"

Rows = list[dict[str, Any]]
Tensors = dict[str, Tensor]
Act = Callable[[Popdb], object]


def outcomes(root: Path) -> list[Outcome]:
    encoded = [encoded_song(root, name, pairs) for name, pairs in (("a", 3), ("b", 1), ("c", 2))]
    return [*encoded, failed_song("d", Status.UNAVAILABLE)]


def settings_of(root: Path) -> Settings:
    """The settings that the dataset is written with; with this seed, song b is held out."""
    return small_settings(root, popdb={"path": root / "popdb", "pairs_per_shard": 4, "seed": 4})


@functools.cache
def template() -> tempfile.TemporaryDirectory[str]:
    """A folder with the dataset, and what it is made from."""
    made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    write_popdb(outcomes(Path(made.name)), settings_of(Path(made.name)))
    return made


def written(root: Path) -> Popdb:
    """The dataset, in a folder of its own."""
    shutil.copytree(template().name, root, dirs_exist_ok=True)
    return open_popdb(root / "popdb")


def shard_names(popdb: Popdb) -> list[str]:
    """In the order of the index."""
    return list(dict.fromkeys(row["shard"] for row in popdb.index))


# Damages of `dataset.json`.


def restate(**fields: Any) -> Act:
    """Other content of `dataset.json`; a dict is merged into the one that is there."""

    def act(popdb: Popdb) -> None:
        for name, value in fields.items():
            popdb.info[name] = popdb.info[name] | value if isinstance(value, dict) else value
        (popdb.root / "dataset.json").write_text(json.dumps(popdb.info))

    return act


def list_file(popdb: Popdb, old: str, content: bytes) -> str:
    """Put a file in the place of `old`, under the name that its digest gives it, and have it listed."""
    digest = hashlib.sha256(content).hexdigest()
    name = old.replace(popdb.info["files"].pop(old)["sha256"][:16], digest[:16])
    (popdb.root / old).unlink()
    (popdb.root / name).write_bytes(content)
    popdb.info["files"][name] = {"bytes": len(content), "sha256": digest}
    return name


def relist(table: str, content: bytes) -> Act:
    """Put other bytes in the place of the index or the songs, and have them listed."""
    return lambda popdb: restate(**{table: list_file(popdb, popdb.info[table], content)})(popdb)


def disown(popdb: Popdb) -> None:
    """Have `dataset.json` not name the second shard."""
    del popdb.info["files"][shard_names(popdb)[1]]
    restate()(popdb)


def restatistic(stream: str, name: str) -> Act:
    def act(popdb: Popdb) -> None:
        popdb.info["stats"][stream][name][0] += 0.001 + 0.001 * abs(popdb.info["stats"][stream][name][0])
        restate()(popdb)

    return act


# Damages of the tables, which are listed again, so that what they say is no fault beside the one meant.


def change_index(edit: Callable[[Rows], Rows]) -> Act:
    def act(popdb: Popdb) -> None:
        rows = edit([dict(row) for row in popdb.index])
        relist("index", table_bytes(rows, INDEX_SCHEMA))(popdb)
        restate(counts={"pairs": len(rows)}, content_sha256=content_digest(rows))(popdb)

    return act


def change_songs(edit: Callable[[Rows], Rows]) -> Act:
    def act(popdb: Popdb) -> None:
        rows = edit(popdb.songs().to_pylist())
        relist("songs", table_bytes(rows, SONGS_SCHEMA))(popdb)
        restate(counts={"songs_listed": len(rows)})(popdb)

    return act


def set_row(place: int, **values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | (values if i == place else {}) for i, row in enumerate(rows)]


def swap_rows(rows: Rows) -> Rows:
    """The index says of two pairs that each is the other."""
    places = [{name: row[name] for name in ("row", "pair_sha256")} for row in rows[:2]]
    return [rows[0] | places[1], rows[1] | places[0], *rows[2:]]


# Damages of the first shard.


def reshard(edit: Callable[[Tensors], object], *, pairs: bool = False) -> Act:
    """Write the first shard anew, with its digest, and those of its pairs too, wherever they stand."""

    def act(popdb: Popdb) -> None:
        old = shard_names(popdb)[0]
        tensors = {stream: tensor.clone() for stream, tensor in load_file(popdb.root / old).items()}
        edit(tensors)
        new = list_file(popdb, old, save(tensors))
        index = [row | ({"shard": new} if row["shard"] == old else {}) for row in popdb.index]
        if pairs:
            halves = list(zip(tensors["vocal"], tensors["accompaniment"], strict=True))
            index[:4] = [row | {"pair_sha256": pair_sha256(*halves[i])} for i, row in enumerate(index[:4])]
        change_index(lambda _: index)(popdb)

    return act


def swap_vocals(tensors: Tensors) -> None:
    tensors["vocal"] = tensors["vocal"][[1, 0, 2, 3]].contiguous()


def same_latents(tensors: Tensors) -> None:
    """The held out song has the latents of a pair that is trained on."""
    for tensor in tensors.values():
        tensor[3] = tensor[0]


def fill(stream: str, value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[stream][1, 63, FRAMES - 1] = value

    return edit


def halve(tensors: Tensors) -> None:
    for stream, tensor in tensors.items():
        tensors[stream] = tensor[:, :, : FRAMES // 2].contiguous()


# Damages of any file: the first shard, the index, the songs, or one of this name.


def at(name: str, act: Callable[[Path], object]) -> Act:
    def on_file(popdb: Popdb) -> None:
        known = {"shard": shard_names(popdb)[0], **{table: popdb.info[table] for table in ("index", "songs")}}
        act(popdb.root / known.get(name, name))

    return on_file


def flip(place: int) -> Callable[[Path], object]:
    return lambda path: flip_bit(path, place)


def fill_file(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-ROW_BYTES])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.symlink_to("aside")


# Name → the damage, and what `verify` says of it; words in capitals are patterns.

NEW = f"shards/{'0' * 16}.safetensors"
NEW_FILE = {NEW: {"bytes": 1, "sha256": "0" * 64}}
AGAIN = "run build-popdb again, or import it again"
BYTES = f"SHARD: its bytes are not those dataset.json names; {AGAIN}"
CHANGED = "SHARD: not the latents that were written: "
LEFT = "left over by a write that was stopped, or of one that is going on; LIBRARY"
NO_FILE = "not a regular file; remove it"
NOT_IN_ORDER = "index: the pairs are not in the shards in its order"
ONE_ROW = "SHARD: pairs of shape (2, 64, 64), the index has (1, 64, 64)"
FIVE_TRAIN = "dataset.json: counts.train is 5, the tables have 4"
BOTH_SIDES = "in training and validation"
CASES: dict[str, tuple[Act, list[str]]] = {
    # Shards
    "a bit of a vocal": (at("shard", flip(-3 * ROW_BYTES)), [BYTES, CHANGED + "a-001"]),
    "a bit of the header": (at("shard", flip(8)), ["SHARD: not a shard (LIBRARY); LIBRARY"]),
    "a shard cut short": (at("shard", cut), ["SHARD: NUMBER bytes, dataset.json names NUMBER"]),
    "a shard lost": (at("shard", Path.unlink), ["SHARD: missing, with a-000, a-001, a-002, b-000"]),
    "a pipe for a shard": (at("shard", make_pipe), ["SHARD: 0 bytes, dataset.json names NUMBER"]),
    "a link for a shard": (at("shard", make_link), ["SHARD: a link; remove it, a dataset has none"]),
    "not a number": (
        reshard(fill("accompaniment", -math.inf), pairs=True),
        ["SHARD: values that are not finite: a-001"],
    ),
    "vocals swapped": (reshard(swap_vocals), [CHANGED + "a-000, a-001"]),
    "another shape": (reshard(halve), ["SHARD: pairs of shape (4, 64, 32), the index has (4, 64, 64)"]),
    "a shard that nobody knows": (at(NEW, fill_file(b"half of it")), [f"{NEW}: {LEFT}"]),
    # Files
    "the card lost": (
        at("README.md", Path.unlink),
        [f"README.md: missing, the one that dataset.json names; {AGAIN}"],
    ),
    "another card": (at("README.md", flip(-1)), [f"README.md: not the one that dataset.json names; {AGAIN}"]),
    "a folder for the card": (at("README.md", make_folder), [f"ROOT/README.md: {NO_FILE}"]),
    "the index lost": (at("index", Path.unlink), [f"INDEX: missing; {AGAIN}"]),
    "a pipe for the songs": (at("songs", make_pipe), [f"ROOT/SONGS: {NO_FILE}"]),
    "a link for the index": (at("index", make_link), ["ROOT/INDEX: a link; remove it, a dataset has none"]),
    "a bit of the index": (
        at("index", flip(-1)),
        [f"INDEX: its bytes are not those dataset.json names; {AGAIN}"],
    ),
    "an index that is no table": (relist("index", b"PAR1"), [f"INDEX: LIBRARY; {AGAIN}"]),
    "songs for an index": (
        relist("index", table_bytes([], SONGS_SCHEMA)),
        [f"INDEX: its columns are LIBRARY, not those of the table; {AGAIN}"],
    ),
    # The index
    "a name twice": (change_index(set_row(2, pair_id="a-001", chunk=1)), ["index: more than one row: a-001"]),
    "another order": (
        change_index(lambda rows: [rows[1], rows[0], *rows[2:]]),
        ["index: not in the order of songs and chunks", NOT_IN_ORDER],
    ),
    "a third split": (
        change_index(set_row(0, split="test")),
        ["index: a split that is neither train nor validation: a-000", FIVE_TRAIN, "STATS"],
    ),
    "another chunk": (
        change_index(set_row(2, chunk=7)),
        ["index: a name that says another chunk than the row: a-002"],
    ),
    "two pairs in one place": (
        change_index(lambda rows: set_row(1, row=0, pair_sha256=rows[0]["pair_sha256"])(rows)),
        [NOT_IN_ORDER, "STATS"],
    ),
    "pairs renamed": (change_index(swap_rows), [NOT_IN_ORDER]),
    "a shard outside": (
        change_index(set_row(4, shard=OUTSIDE)),
        [
            "index: in a shard that dataset.json does not name: c-000",
            "dataset.json: counts.shards is 2, the tables have 3",
            NOT_IN_ORDER,
            ONE_ROW,
        ],
    ),
    "a row beyond the shard": (
        change_index(set_row(5, row=99)),
        [NOT_IN_ORDER, "SHARD: no row 99 of (64, 64) in its shape (2, 64, 64)"],
    ),
    "a pair that lost its row": (
        change_index(lambda rows: rows[:5]),
        ["songs: pairs other than the index has: c", FIVE_TRAIN, ONE_ROW],
    ),
    # The songs
    "a song missing": (
        change_songs(lambda rows: rows[1:]),
        [
            "index: no song for pairs: a-000, a-001, a-002",
            "dataset.json: counts.songs_kept is 3, the tables have 2",
            "dataset.json: counts.chunks is 6, the tables have 3",
        ],
    ),
    "a song that failed": (
        change_songs(set_row(0, status="too_short")),
        ["index: pairs of a song that failed: a-000, a-001, a-002"],
    ),
    "a song twice": (change_songs(lambda rows: [*rows, rows[3]]), ["songs: more than one row: d"]),
    # The split
    "a recording on both sides": (
        change_songs(lambda rows: set_row(1, recording=rows[0]["recording"])(rows)),
        [f"split: recording a {BOTH_SIDES}: b-000"],
    ),
    "an audio file on both sides": (
        change_songs(lambda rows: set_row(1, audio_sha256=rows[0]["audio_sha256"])(rows)),
        [f"split: audio file a {BOTH_SIDES}: b-000"],
    ),
    "a song on both sides": (
        change_index(set_row(2, split="validation")),
        [
            FIVE_TRAIN,
            "dataset.json: counts.validation is 1, the tables have 2",
            f"split: song a {BOTH_SIDES}: a-002",
            "STATS",
        ],
    ),
    "a pair on both sides": (
        reshard(same_latents, pairs=True),
        [f"split: the latents DIGEST {BOTH_SIDES}: b-000"],
    ),
    # dataset.json
    "a newer format": (restate(format_version=99), ["ROOT: format 99, this version reads 4; update samuel"]),
    "an older format": (
        restate(format_version=3, codec="mel/1"),
        [f"ROOT: format 3, this version reads 4; {AGAIN}"],
    ),
    "JSON too long": (
        at("dataset.json", fill_file(b" " * (2**24 + 1))),
        ["ROOT: dataset.json: more than NUMBER bytes, which none has"],
    ),
    "a pipe for dataset.json": (at("dataset.json", make_pipe), [f"ROOT/dataset.json: {NO_FILE}"]),
    "another content": (
        restate(content_sha256="0" * 64),
        ["dataset.json: content_sha256 is not that of the pairs of the index"],
    ),
    "a count of rows": (restate(counts={"pairs": 7}), [f"INDEX: 6 rows, not 7; {AGAIN}"]),
    "a shard unnamed": (
        disown,
        [f"SHARD: {LEFT}", "index: in a shard that dataset.json does not name: c-000, c-001"],
    ),
    "a shard without pairs": (restate(files=NEW_FILE), [f"{NEW}: in dataset.json, but no pair lies in it"]),
    "a mean": (restatistic("vocal", "mean"), ["dataset.json: stats: vocal mean FIGURES"]),
    "a deviation": (restatistic("accompaniment", "std"), ["dataset.json: stats: accompaniment std FIGURES"]),
}
