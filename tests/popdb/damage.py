"""A small dataset, and every way in which it can be damaged.

The dataset has two shards: `a-000 a-001 a-002 b-000` and `c-000 c-001`, then `x-000 x-001`, which are buried.
Songs a and c are trained on, b is held out.
"""

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from samuel.config import Settings
from samuel.popdb.dataset import (
    INDEX_SCHEMA,
    TOMBSTONE_SCHEMA,
    Popdb,
    content_digest,
    layout_of,
    open_popdb,
    pair_sha256,
)
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import SONGS_SCHEMA, read_table, write_rows
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import (
    FRAMES,
    encoded_song,
    failed_song,
    shard_bytes,
    small_settings,
)

SCHEMAS = {"index": INDEX_SCHEMA, "songs": SONGS_SCHEMA, "tombstones": TOMBSTONE_SCHEMA}
ROW_BYTES = 64 * FRAMES * 2
BYTES = "{0}: its bytes are not those dataset.json names"
AGAIN = "run build-popdb again, or import it again"
SEED = 4  # with which song b is held out

Rows = list[dict[str, Any]]


def outcomes(root: Path) -> list[Outcome]:
    encoded = [encoded_song(root, name, pairs) for name, pairs in (("a", 3), ("b", 1), ("c", 2))]
    return [*encoded, failed_song("d", Status.UNAVAILABLE)]


@functools.cache
def template() -> tempfile.TemporaryDirectory[str]:
    """A folder with the dataset, grown in two steps, and what it is made from."""
    made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    root = Path(made.name)
    write_popdb([*outcomes(root), encoded_song(root, "x", 2)], settings_of(root))
    write_popdb(outcomes(root), settings_of(root))
    return made


def written(root: Path) -> Popdb:
    """The dataset, in a folder of its own."""
    shutil.copytree(template().name, root, dirs_exist_ok=True)
    return open_popdb(root / "popdb")


def settings_of(root: Path, name: str = "popdb") -> Settings:
    """The settings that the dataset is written with."""
    return small_settings(root, popdb={"path": root / name, "pairs_per_shard": 4, "seed": SEED})


def shard_names(popdb: Popdb) -> list[str]:
    return sorted({row["shard"] for row in popdb.index})


def seal(root: Path, **changed: Any) -> None:
    """Write tables, or fields of `dataset.json`, with sizes and digests that fit."""
    info = json.loads((root / "dataset.json").read_text())
    for name, schema in SCHEMAS.items():
        if name in changed:
            write_rows(root / f"{name}.parquet", changed.pop(name), schema)
    for name in info["files"]:
        content = (root / name).read_bytes() if (root / name).is_file() else b""
        info["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    info["index_sha256"] = info["files"]["index.parquet"]["sha256"]
    (root / "dataset.json").write_text(json.dumps(info | changed))


def tables(popdb: Popdb) -> dict[str, Rows]:
    return {"index": popdb.index, "songs": popdb.songs().to_pylist(), "tombstones": popdb.tombstones}


def change(popdb: Popdb, table: str, of: str, **values: Any) -> None:
    """Change the row of a pair or song in a table that then has its digest."""
    rows = tables(popdb)[table]
    key = "song_id" if table == "songs" else "pair_id"
    seal(popdb.root, **{table: [row | (values if row[key] == of else {}) for row in rows]})


def flip(popdb: Popdb, shard: int, place: Callable[[Any], int]) -> None:
    """Flip a bit in a shard, at a place that follows from its layout."""
    path = popdb.root / shard_names(popdb)[shard]
    content = bytearray(path.read_bytes())
    with path.open("rb", buffering=0) as file:
        content[place(layout_of(file, path.name))] ^= 1
    path.write_bytes(content)


def flip_name(popdb: Popdb) -> None:
    """Flip a bit in the name of a pair in the header."""
    path = popdb.root / shard_names(popdb)[0]
    path.write_bytes(path.read_bytes().replace(b"b-000", b"c-000"))


def reshard(
    popdb: Popdb, edit: Callable[[dict[str, Tensor], list[str]], object], *, pairs: bool = False
) -> None:
    """Write the first shard anew under its name, with its digest, or those of its pairs too, in the index."""
    name = shard_names(popdb)[0]
    tensors = {stream: tensor.clone() for stream, tensor in load_file(popdb.root / name).items()}
    ids = [row["pair_id"] for row in popdb.index if row["shard"] == name]
    edit(tensors, ids)
    content = shard_bytes(ids, tensors)
    (popdb.root / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    index = [row | ({"shard_sha256": digest} if row["shard"] == name else {}) for row in popdb.index]
    if pairs:
        halves = zip(tensors["vocal"], tensors["accompaniment"], strict=True)
        index[:4] = [
            row | {"pair_sha256": pair_sha256(*pair)} for row, pair in zip(index[:4], halves, strict=True)
        ]
    seal(popdb.root, index=index)


def swap_vocals(tensors: dict[str, Tensor], ids: list[str]) -> None:
    tensors["vocal"] = tensors["vocal"][[1, 0, 2, 3]].contiguous()


def fill(stream: str, value: float) -> Callable[[dict[str, Tensor], list[str]], None]:
    def edit(tensors: dict[str, Tensor], ids: list[str]) -> None:
        tensors[stream][1, 63, FRAMES - 1] = value

    return edit


def halve(*streams: str) -> Callable[[dict[str, Tensor], list[str]], None]:
    def edit(tensors: dict[str, Tensor], ids: list[str]) -> None:
        for stream in streams:
            tensors[stream] = tensors[stream][:, :, : FRAMES // 2].contiguous()

    return edit


def one_more(tensors: dict[str, Tensor], ids: list[str]) -> None:
    ids.append("z-000")
    for stream, tensor in tensors.items():
        tensors[stream] = torch.cat([tensor, tensor[:1]])


def cut(popdb: Popdb) -> None:
    path = popdb.root / shard_names(popdb)[0]
    path.write_bytes(path.read_bytes()[:-ROW_BYTES])


def lose(name: str, *, folder: bool = False) -> Callable[[Popdb], None]:
    def act(popdb: Popdb) -> None:
        path = popdb.root / (name or shard_names(popdb)[0])
        path.unlink()
        if folder:
            path.mkdir()

    return act


def spoil(name: str, content: bytes, *, sealed: bool = False) -> Callable[[Popdb], None]:
    def act(popdb: Popdb) -> None:
        (popdb.root / name).write_bytes(content)
        if sealed:
            seal(popdb.root)

    return act


def restate(**fields: Any) -> Callable[[Popdb], None]:
    """Other content of `dataset.json`; a dict is merged into the one that is there."""

    def act(popdb: Popdb) -> None:
        merged = {
            name: popdb.info[name] | value if isinstance(value, dict) else value
            for name, value in fields.items()
        }
        (popdb.root / "dataset.json").write_text(json.dumps(popdb.info | merged))

    return act


def disown(name: str = "") -> Callable[[Popdb], None]:
    """Have `dataset.json` not name a file: the second shard, or another."""

    def act(popdb: Popdb) -> None:
        files = dict(popdb.info["files"])
        del files[name or shard_names(popdb)[1]]
        (popdb.root / "dataset.json").write_text(json.dumps(popdb.info | {"files": files}))

    return act


def another(name: str) -> Callable[[Popdb], None]:
    """Put a file of another dataset in the place of this one's."""

    def act(popdb: Popdb) -> None:
        settings = small_settings(popdb.root.parent, popdb={"path": popdb.root.parent / "other"})
        other = write_popdb(outcomes(popdb.root.parent)[1:], settings)
        (popdb.root / name).write_bytes((other.root / name).read_bytes())
        shutil.rmtree(other.root)
        if name == "stats.json":
            seal(popdb.root)

    return act


def restatistic(stream: str, name: str) -> Callable[[Popdb], None]:
    def act(popdb: Popdb) -> None:
        stats = json.loads((popdb.root / "stats.json").read_text())
        stats[stream][name][0] *= 1.001
        stats[stream][name][0] += 0.001
        (popdb.root / "stats.json").write_text(json.dumps(stats))
        seal(popdb.root)

    return act


def leave(name: str) -> Callable[[Popdb], None]:
    def act(popdb: Popdb) -> None:
        (popdb.root / name).parent.mkdir(exist_ok=True)
        (popdb.root / name).write_bytes(b"half of it")

    return act


def stop_midway(popdb: Popdb) -> None:
    """As a writer leaves it that is killed after its commit, and before all files are in their places."""
    pending = popdb.root / ".pending"
    pending.mkdir(exist_ok=True)
    for name in ("dataset.json", "songs.parquet", "stats.json"):
        (popdb.root / name).rename(pending / name)
    (popdb.root / "songs.parquet").write_bytes(b"the one before")


def same_latents(popdb: Popdb) -> None:
    """The held out song has the latents of a pair that is trained on."""

    def edit(tensors: dict[str, Tensor], ids: list[str]) -> None:
        for tensor in tensors.values():
            tensor[3] = tensor[0]

    reshard(popdb, edit, pairs=True)
    seal_content(popdb.root)


def seal_content(root: Path) -> None:
    """Have `dataset.json` name the pairs as they are, so that this is no fault beside the one meant."""
    index = read_table((root / "index.parquet").read_bytes(), INDEX_SCHEMA).to_pylist()
    seal(root, content_sha256=content_digest(index))


def reindex(edit: Callable[[Rows], Rows]) -> Callable[[Popdb], None]:
    def act(popdb: Popdb) -> None:
        seal(popdb.root, index=edit([dict(row) for row in popdb.index]))
        seal_content(popdb.root)

    return act


def resong(edit: Callable[[Rows], Rows]) -> Callable[[Popdb], None]:
    return lambda popdb: seal(popdb.root, songs=edit(popdb.songs().to_pylist()))


def rename_pairs(rows: Rows) -> Rows:
    """The index says of two pairs that each is the other."""
    places = [{name: row[name] for name in ("row", "pair_sha256")} for row in rows[:2]]
    return [rows[0] | places[1], rows[1] | places[0], *rows[2:]]


def set_row(place: int, **values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | (values if i == place else {}) for i, row in enumerate(rows)]


@dataclass(frozen=True)
class Case:
    """A damage, what `verify` says of it, and the pairs that a repair drops.

    Attributes:
        act: Does it.
        lines: What is said; `{0}` and `{1}` are the shards.
        dropped: Pairs that are lost.
        mendable: False where only another build helps.
    """

    act: Callable[[Popdb], object]
    lines: Sequence[str]
    dropped: Sequence[str] = ()
    mendable: bool = True


ALL = ("a-000", "a-001", "a-002", "b-000")
CHANGED = "{0}: not the latents that were written: "
INFINITE = (
    "{0}: values that are not finite (if build-popdb brings them back, delete the folder of latents whose "
    "entry.json names the latents_sha256 of the pair): a-001"
)
