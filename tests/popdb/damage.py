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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
AGAIN = "run build-popdb again, or import it again"
BYTES = f"SHARD: its bytes are not those dataset.json names; {AGAIN}"
CHANGED = "SHARD: not the latents that were written: "
CONTENT = "dataset.json: content_sha256 is not that of the pairs of the index"
OUTSIDE = "../../outside.safetensors"

Rows = list[dict[str, Any]]
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


def relist(popdb: Popdb, table: str, content: bytes) -> None:
    """Put other bytes in the place of the index or the songs, and have them listed."""
    restate(**{table: list_file(popdb, popdb.info[table], content)})(popdb)


def change_tables(popdb: Popdb, index: Rows | None = None, songs: Rows | None = None) -> None:
    """Write tables and have them listed, so that what they say is no fault beside the one meant."""
    for table, rows, schema in (("index", index, INDEX_SCHEMA), ("songs", songs, SONGS_SCHEMA)):
        if rows is not None:
            relist(popdb, table, table_bytes(rows, schema))
    if index is not None:
        restate(counts={"pairs": len(index)}, content_sha256=content_digest(index))(popdb)
    if songs is not None:
        restate(counts={"songs_listed": len(songs)})(popdb)


def change_index(edit: Callable[[Rows], Rows]) -> Act:
    return lambda popdb: change_tables(popdb, index=edit([dict(row) for row in popdb.index]))


def change_songs(edit: Callable[[Rows], Rows]) -> Act:
    return lambda popdb: change_tables(popdb, songs=edit(popdb.songs().to_pylist()))


def set_row(place: int, **values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | (values if i == place else {}) for i, row in enumerate(rows)]


def reshard(edit: Callable[[dict[str, Tensor]], object], *, pairs: bool = False) -> Act:
    """Write the first shard anew, with its digest, and those of its pairs too, wherever they stand."""

    def act(popdb: Popdb) -> None:
        old = shard_names(popdb)[0]
        tensors = {stream: tensor.clone() for stream, tensor in load_file(popdb.root / old).items()}
        edit(tensors)
        new = list_file(popdb, old, save(tensors))
        index = [row | ({"shard": new} if row["shard"] == old else {}) for row in popdb.index]
        if pairs:
            halves = zip(tensors["vocal"], tensors["accompaniment"], strict=True)
            index[:4] = [
                row | {"pair_sha256": pair_sha256(*pair)} for row, pair in zip(index, halves, strict=False)
            ]
        change_tables(popdb, index)

    return act


def swap_vocals(tensors: dict[str, Tensor]) -> None:
    tensors["vocal"] = tensors["vocal"][[1, 0, 2, 3]].contiguous()


def same_latents(tensors: dict[str, Tensor]) -> None:
    """The held out song has the latents of a pair that is trained on."""
    for tensor in tensors.values():
        tensor[3] = tensor[0]


def fill(stream: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors[stream][1, 63, FRAMES - 1] = value

    return edit


def halve(*streams: str) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        for stream in streams:
            tensors[stream] = tensors[stream][:, :, : FRAMES // 2].contiguous()

    return edit


def one_more(tensors: dict[str, Tensor]) -> None:
    for stream, tensor in tensors.items():
        tensors[stream] = torch.cat([tensor, tensor[:1]])


def at(name: str, act: Callable[[Path], object]) -> Act:
    """Do something to a file: the first shard, the index, the songs, or one of this name."""

    def on_file(popdb: Popdb) -> None:
        known = {"shard": shard_names(popdb)[0], **{table: popdb.info[table] for table in ("index", "songs")}}
        act(popdb.root / known.get(name, name))

    return on_file


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


def restatistic(stream: str, name: str) -> Act:
    def act(popdb: Popdb) -> None:
        popdb.info["stats"][stream][name][0] += 0.001 + 0.001 * abs(popdb.info["stats"][stream][name][0])
        restate()(popdb)

    return act


def swap_rows(rows: Rows) -> Rows:
    """The index says of two pairs that each is the other."""
    places = [{name: row[name] for name in ("row", "pair_sha256")} for row in rows[:2]]
    return [rows[0] | places[1], rows[1] | places[0], *rows[2:]]


def disown(popdb: Popdb) -> None:
    """Have `dataset.json` not name the second shard."""
    del popdb.info["files"][shard_names(popdb)[1]]
    restate()(popdb)


@dataclass(frozen=True)
class Case:
    """A damage, and what `verify` says of it; words in capitals are patterns."""

    act: Act
    lines: Sequence[str]


NOT_IN_ORDER = "index: the pairs are not in the shards in its order"
CASES: dict[str, Case] = {
    # Shards
    "a bit of a vocal": Case(
        at("shard", lambda path: flip_bit(path, -3 * ROW_BYTES)), [BYTES, CHANGED + "a-001"]
    ),
    "the last bit of the file": Case(at("shard", flip_bit), [BYTES, CHANGED + "b-000"]),
    "a bit of the header's braces": Case(
        at("shard", lambda path: flip_bit(path, 8)), ["SHARD: not a shard (LIBRARY); LIBRARY"]
    ),
    "a bit of the header's length": Case(
        at("shard", lambda path: flip_bit(path, 5)),
        ["SHARD: not a shard (a header of NUMBER bytes); LIBRARY"],
    ),
    "a shard cut short": Case(at("shard", cut), ["SHARD: NUMBER bytes, dataset.json names NUMBER"]),
    "a shard lost": Case(at("shard", Path.unlink), ["SHARD: missing, with a-000, a-001, a-002, b-000"]),
    "a pipe for a shard": Case(at("shard", make_pipe), ["SHARD: 0 bytes, dataset.json names NUMBER"]),
    "a link for a shard": Case(at("shard", make_link), ["SHARD: a link; remove it, a dataset has none"]),
    "not a number": Case(
        reshard(fill("vocal", math.nan), pairs=True), ["SHARD: values that are not finite: a-001"]
    ),
    "infinite": Case(
        reshard(fill("accompaniment", -math.inf), pairs=True), ["SHARD: values that are not finite: a-001"]
    ),
    "vocals swapped": Case(reshard(swap_vocals), [CHANGED + "a-000, a-001"]),
    "a stream of another shape": Case(
        reshard(halve("vocal")),
        ["SHARD: not a shard (not float16 pairs: vocal (4, 64, 32), accompaniment (4, 64, 64)); LIBRARY"],
    ),
    "pairs of another shape": Case(
        reshard(halve("vocal", "accompaniment")),
        ["SHARD: pairs of shape (4, 64, 32), the index has (4, 64, 64)"],
    ),
    "a row that nobody knows": Case(
        reshard(one_more), ["SHARD: pairs of shape (5, 64, 64), the index has (4, 64, 64)"]
    ),
    "a shard that nobody knows": Case(
        lambda popdb: (popdb.root / "shards/0123456789abcdef.safetensors").write_bytes(b"half of it"),
        [
            f"shards/0123456789abcdef.safetensors: left over by a write that was stopped, or of one that is "
            f"going on; {AGAIN}"
        ],
    ),
    # Files
    "the card lost": Case(
        at("README.md", Path.unlink), [f"README.md: missing, the one that dataset.json names; {AGAIN}"]
    ),
    "another card": Case(
        at("README.md", flip_bit), [f"README.md: not the one that dataset.json names; {AGAIN}"]
    ),
    "a folder for the card": Case(
        at("README.md", make_folder), ["ROOT/README.md: not a regular file; remove it"]
    ),
    "the index lost": Case(at("index", Path.unlink), [f"INDEX: missing; {AGAIN}"]),
    "the songs lost": Case(at("songs", Path.unlink), [f"SONGS: missing; {AGAIN}"]),
    "a pipe for the songs": Case(at("songs", make_pipe), ["ROOT/SONGS: not a regular file; remove it"]),
    "a link for the index": Case(
        at("index", make_link), ["ROOT/INDEX: a link; remove it, a dataset has none"]
    ),
    "a bit of the index": Case(
        at("index", flip_bit), [f"INDEX: its bytes are not those dataset.json names; {AGAIN}"]
    ),
    "an index that is no table": Case(
        lambda popdb: relist(popdb, "index", b"PAR1"),
        [f"INDEX: LIBRARY; {AGAIN}"],
    ),
    "songs for an index": Case(
        lambda popdb: restate(index=list_file(popdb, popdb.info["index"], table_bytes([], SONGS_SCHEMA)))(
            popdb
        ),
        [f"INDEX: its columns are LIBRARY, not those of the table; {AGAIN}"],
    ),
    # The index
    "a name twice": Case(
        change_index(lambda rows: [rows[0], rows[1], rows[2] | {"pair_id": "a-001", "chunk": 1}, *rows[3:]]),
        ["index: more than one row: a-001"],
    ),
    "another order": Case(
        change_index(lambda rows: [rows[1], rows[0], *rows[2:]]),
        ["index: not in the order of songs and chunks", NOT_IN_ORDER],
    ),
    "a third split": Case(
        change_index(set_row(0, split="test")),
        [
            "index: a split that is neither train nor validation: a-000",
            "dataset.json: counts.train is 5, the tables have 4",
            "STATS",
        ],
    ),
    "another chunk": Case(
        change_index(set_row(2, chunk=7)), ["index: a name that says another chunk than the row: a-002"]
    ),
    "two pairs in one place": Case(
        change_index(lambda rows: set_row(1, row=0, pair_sha256=rows[0]["pair_sha256"])(rows)),
        [NOT_IN_ORDER, "STATS"],
    ),
    "pairs renamed": Case(change_index(swap_rows), [NOT_IN_ORDER]),
    "a shard outside": Case(
        change_index(set_row(4, shard=OUTSIDE)),
        [
            "index: in a shard that dataset.json does not name: c-000",
            "dataset.json: counts.shards is 2, the tables have 3",
            NOT_IN_ORDER,
            "SHARD: pairs of shape (2, 64, 64), the index has (1, 64, 64)",
        ],
    ),
    "a row beyond the shard": Case(
        change_index(set_row(5, row=99)),
        [NOT_IN_ORDER, "SHARD: no row 99 of (64, 64) in its shape (2, 64, 64)"],
    ),
    "a pair that lost its row": Case(
        change_index(lambda rows: rows[:5]),
        [
            "songs: pairs other than the index has: c",
            "dataset.json: counts.train is 5, the tables have 4",
            "SHARD: pairs of shape (2, 64, 64), the index has (1, 64, 64)",
        ],
    ),
    # The songs
    "a song missing": Case(
        change_songs(lambda rows: rows[1:]),
        [
            "index: no song for pairs: a-000, a-001, a-002",
            "dataset.json: counts.songs_kept is 3, the tables have 2",
            "dataset.json: counts.chunks is 6, the tables have 3",
        ],
    ),
    "a song that failed": Case(
        change_songs(set_row(0, status="too_short")),
        ["index: pairs of a song that failed: a-000, a-001, a-002"],
    ),
    "a song that counts otherwise": Case(
        change_songs(set_row(0, pairs=2)),
        [
            "songs: pairs other than the index has: a",
            "dataset.json: counts.chunks_left_out is 0, the tables have 1",
        ],
    ),
    "a song twice": Case(change_songs(lambda rows: [*rows, rows[3]]), ["songs: more than one row: d"]),
    # The split
    "a recording on both sides": Case(
        change_songs(lambda rows: set_row(1, recording=rows[0]["recording"])(rows)),
        ["split: recording a in training and validation: b-000"],
    ),
    "an audio file on both sides": Case(
        change_songs(lambda rows: set_row(1, audio_sha256=rows[0]["audio_sha256"])(rows)),
        ["split: audio file a in training and validation: b-000"],
    ),
    "a song on both sides": Case(
        change_index(set_row(2, split="validation")),
        [
            "dataset.json: counts.train is 5, the tables have 4",
            "dataset.json: counts.validation is 1, the tables have 2",
            "split: song a in training and validation: a-002",
            "STATS",
        ],
    ),
    "a pair on both sides": Case(
        reshard(same_latents, pairs=True), ["split: the latents DIGEST in training and validation: b-000"]
    ),
    # dataset.json
    "another format": Case(
        restate(format_version=99), ["ROOT: format 99, this version reads 4; update samuel"]
    ),
    "an older format": Case(
        restate(format_version=3, codec="mel/1"), [f"ROOT: format 3, this version reads 4; {AGAIN}"]
    ),
    "no JSON": Case(
        at("dataset.json", lambda path: path.write_bytes(b"{")),
        [f"ROOT: dataset.json: Invalid JSON: LIBRARY; {AGAIN}"],
    ),
    "JSON too deep": Case(
        at("dataset.json", lambda path: path.write_bytes(b"[" * 100_000)),
        [f"ROOT: dataset.json: Invalid JSON: recursion limit LIBRARY; {AGAIN}"],
    ),
    "JSON too long": Case(
        at("dataset.json", lambda path: path.write_bytes(b" " * (2**24 + 1))),
        ["ROOT: dataset.json: more than NUMBER bytes, which none has"],
    ),
    "a pipe for dataset.json": Case(
        at("dataset.json", make_pipe), ["ROOT/dataset.json: not a regular file; remove it"]
    ),
    "no frames": Case(
        restate(chunk_frames=0),
        [f"ROOT: dataset.json: chunk_frames: Input should be greater than or equal to 8; {AGAIN}"],
    ),
    "a file outside": Case(
        restate(files={OUTSIDE: {"bytes": 1, "sha256": "0" * 64}}),
        [f"ROOT: dataset.json: files.{OUTSIDE}.LIBRARY: String should match pattern LIBRARY; {AGAIN}"],
    ),
    "a file under another's digest": Case(
        lambda popdb: restate(files={popdb.info["index"]: {"bytes": 1, "sha256": "0" * 64}})(popdb),
        [f"ROOT: dataset.json: Value error, files: INDEX has the digest ZEROS; {AGAIN}"],
    ),
    "a count": Case(
        restate(counts={"validation": 3}), ["dataset.json: counts.validation is 3, the tables have 1"]
    ),
    "a count of rows": Case(restate(counts={"pairs": 7}), [f"INDEX: 6 rows, not 7; {AGAIN}"]),
    "another content": Case(restate(content_sha256="0" * 64), [CONTENT]),
    "a shard unnamed": Case(
        disown,
        [
            "SHARD: left over by a write that was stopped, or of one that is going on; LIBRARY",
            "index: in a shard that dataset.json does not name: c-000, c-001",
        ],
    ),
    "a shard without pairs": Case(
        restate(files={f"shards/{'0' * 16}.safetensors": {"bytes": 1, "sha256": "0" * 64}}),
        [f"shards/{'0' * 16}.safetensors: in dataset.json, but no pair lies in it"],
    ),
    # Statistics
    **{
        f"{name} of {stream}": Case(
            restatistic(stream, name), [f"dataset.json: stats: {stream} {name} FIGURES"]
        )
        for stream in ("vocal", "accompaniment")
        for name in ("mean", "std")
    },
    "figures missing": Case(
        restate(stats={"vocal": {"mean": [], "std": []}}),
        [f"ROOT: dataset.json: stats.vocal.mean: List should have at least 1 item LIBRARY; {AGAIN}"],
    ),
    "a channel too many": Case(
        lambda popdb: restate(stats={"vocal": {n: [*f, 1.0] for n, f in popdb.stats["vocal"].items()}})(
            popdb
        ),
        [f"ROOT: dataset.json: Value error, stats: not as many channels everywhere; {AGAIN}"],
    ),
}
