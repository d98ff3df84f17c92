"""Writing a dataset: new files beside the old, one step that makes them the dataset, then the old ones go.

The pairs are in the order of their songs' ids, every shard but the last is full, and a file is named by its
digest: the same songs give the same bytes. A writer that is stopped leaves the old dataset or the new one,
and files that the next writer removes.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from safetensors.numpy import load

from samuel.artifacts import Artifact, Store, explain_full_disk, json_bytes
from samuel.codecs import CodecInfo
from samuel.config import Settings
from samuel.errors import DatasetError, InputError, NewerFormatError
from samuel.popdb import dataset, tables
from samuel.popdb.dataset import CARD, MANIFEST, OWN_NAME, ChannelSums, Halves, Popdb
from samuel.popdb.folder import Folder, open_folder
from samuel.popdb.status import Outcome
from samuel.popdb.tables import LATENTS, Row, chunks_kept

WIDEST_BAR = 40
# The hub's names, and the count from which each holds.
SIZES = {"n<1K": 0, "1K<n<10K": 10**3, "10K<n<100K": 10**4, "100K<n<1M": 10**5, "1M<n<10M": 10**6}
# What a writer that was killed may leave; and the files of the formats before.
SWEPT = re.compile(
    rf"({OWN_NAME.pattern})|(shards/)?[.].+[.]\d+-\d+[.]tmp|shards/\d{{5,}}-[0-9a-f]{{12}}[.]safetensors"
    "|(index|songs|tombstones)[.]parquet|stats[.]json"
)

Pair = tuple[Halves, Halves]


@dataclass(frozen=True)
class Content:
    """What a dataset is to hold."""

    rows: Sequence[Row]  # its pairs in the order of the index, without their places
    read: Callable[[Sequence[Row]], Iterable[Pair]]  # rows → their latents, each float16 (C, T)
    songs: Sequence[Row]  # the table of songs
    made_of: dict[str, Any]  # of `dataset.json`: source, separator, codec, chunk_frames and settings


def write_popdb(outcomes: Sequence[Outcome], settings: Settings, store: Store | None = None) -> Popdb:
    """Make the dataset hold the encoded songs among `outcomes`, one of each song of the list, and no other.

    Nothing is written where nothing has changed and all is sound. An InputError where no song was encoded, or
    a dataset of another source is there.
    """
    config, least = settings.popdb, settings.popdb.min_vocal_share
    outcomes = sorted(outcomes, key=lambda outcome: outcome.song.song_id)
    groups = tables.same_recordings(outcomes)
    songs = tables.song_rows(outcomes, groups, least)
    kept = [outcome for outcome in outcomes if chunks_kept(outcome, least)]
    if not kept:
        failed = next((row for row in songs if row["status"] != "ok"), None)
        why = f"; {failed['title']!r}: {failed['status']}, {failed['message']}" if failed else ""
        few = f"no song has a chunk that was encoded and is sung enough (popdb.min_vocal_share = {least:g})"
        raise InputError(f"{few}{why}; nothing was written to {settings.popdb_path}")
    made_of = {
        **{part: kept[0].record[part] for part in ("codec", "separator")},
        "source": settings.songs.source,
        "chunk_frames": config.chunk_frames,
        "settings": config.model_dump(mode="json", exclude={"path", "cache"}),
    }
    artifacts = {outcome.song.song_id: outcome.artifact for outcome in kept if outcome.artifact}
    store = store or Store(settings.data, settings.store)
    rows = tables.pair_rows(kept, groups, least, config.validation_share, config.seed)
    content = Content(rows, lambda rows: _encoded(rows, artifacts, store), songs, made_of)
    folder = open_folder(settings.popdb_path, config.cache)
    with folder.locked():
        return save(folder, content, _same_source(folder, made_of["source"]))


def require_place(settings: Settings) -> None:
    """Before the long work: raise what `write_popdb` would, because of the place that the settings say."""
    _same_source(open_folder(settings.popdb_path, settings.popdb.cache), settings.songs.source)


def _same_source(folder: Folder, source: str) -> Popdb | None:
    """The dataset in a folder, if one can be read; an InputError where its songs are of another kind."""
    try:
        old = dataset.read_popdb(folder)
    except NewerFormatError:
        raise
    except DatasetError:
        return None
    if old.info["source"] != source:
        there = f"a dataset from the source {old.info['source']!r} is there, and this one is from {source!r}"
        raise InputError(f"{old.location}: {there}; set popdb.path, or delete it")
    return old


def save(folder: Folder, content: Content, old: Popdb | None) -> Popdb:
    """Write what is not there yet, and make it the dataset in one step; the caller holds the lock."""
    files = _Files(folder)
    kept: Collection[str] = folder.sizes()  # until it is done: what is there may be a dataset that is damaged
    remedy = "the dataset there is as it was. Free some space, and run it again"
    try:
        with explain_full_disk(folder.location, remedy):
            rows, stats = _keep_shards(files, content, old) or _write_shards(files, content)
            index = tables.table_bytes(rows, tables.INDEX_SCHEMA)
            songs = tables.table_bytes(content.songs, tables.SONGS_SCHEMA)
            info = content.made_of | {
                "format_version": dataset.FORMAT_VERSION,
                "content_sha256": dataset.content_digest(rows),
                "counts": tables.counts_of(rows, content.songs),
                "stats": stats,
                "index": files.add("index-{}.parquet", index),
                "songs": files.add("songs-{}.parquet", songs),
            }
            shares = [share for song in content.songs for share in song["vocal_shares"] if share is not None]
            card = dataset_card(info, shares).encode()
            digest = hashlib.sha256(card).hexdigest()
            info["files"] = files.listed | {CARD: {"bytes": len(card), "sha256": digest}}
            manifest = json_bytes(info)
            files.put(MANIFEST, manifest, hashlib.sha256(manifest).hexdigest())  # now it is the dataset
            files.put(CARD, card, digest)
            kept = ()
    finally:
        try:
            listed = dataset.read_manifest(folder)["files"]
        except DatasetError:
            listed = {}
        unknown = folder.sizes().keys() - listed.keys() - set(kept)
        folder.remove(name for name in unknown if SWEPT.fullmatch(name))
    return replace(dataset.read_popdb(folder), made=files.changed)


class _Files:
    """Puts files where they are not there yet."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.changed = folder, False
        self.listed: dict[str, dict[str, Any]] = {}  # name → size and digest

    def add(self, pattern: str, content: bytes) -> str:
        """Have a file with this content there, and list it; its name, which holds its digest."""
        digest = hashlib.sha256(content).hexdigest()
        name = pattern.format(digest[:16])
        self.put(name, content, digest)
        self.listed[name] = {"bytes": len(content), "sha256": digest}
        return name

    def put(self, name: str, content: bytes, digest: str) -> None:
        """Have a file with this content there."""
        if self.folder.sha256(name) != digest:
            self.folder.put(name, content, digest)
            self.changed = True


def _keep_shards(
    files: _Files, content: Content, old: Popdb | None
) -> tuple[list[Row], dataset.ChannelFigures] | None:
    """The rows with their places, and the statistics, where the shards of the old dataset hold them all."""
    known = itemgetter("pair_id", "latents_sha256", "split")
    if old is None or list(map(known, old.index)) != list(map(known, content.rows)):
        return None
    if old.info["settings"]["pairs_per_shard"] != content.made_of["settings"]["pairs_per_shard"]:
        return None
    shards = {row["shard"]: old.info["files"][row["shard"]] for row in old.index}
    if any(files.folder.sha256(name) != listed["sha256"] for name, listed in shards.items()):
        return None
    files.listed |= shards
    places = ({name: row[name] for name in ("shard", "row", "pair_sha256")} for row in old.index)
    return [row | place for row, place in zip(content.rows, places, strict=True)], old.stats


def _write_shards(files: _Files, content: Content) -> tuple[list[Row], dataset.ChannelFigures]:
    """Write all pairs into shards; the rows with their places, and the statistics of those to train on."""
    frames, most = content.made_of["chunk_frames"], content.made_of["settings"]["pairs_per_shard"]
    size = min(most, max(1, dataset.MOST_SHARD_FRAMES // frames))
    pairs, rows, sums = iter(content.read(content.rows)), list[Row](), ChannelSums()
    for start in range(0, len(content.rows), size):
        members = content.rows[start : start + size]
        latents = np.stack([np.stack(pair) for pair in islice(pairs, len(members))], axis=1)  # (2, N, C, T)
        name = files.add("shards/{}.safetensors", dataset.shard_bytes(latents))
        for place, (row, pair) in enumerate(zip(members, latents.swapaxes(0, 1), strict=True)):
            rows.append(row | {"shard": name, "row": place, "pair_sha256": dataset.pair_sha256(*pair)})
            if row["split"] == "train":
                sums.add(*pair)
    return rows, sums.statistics()


def _encoded(rows: Sequence[Row], artifacts: Mapping[str, Artifact], store: Store) -> Iterator[Pair]:
    """The latents of rows from what the stages left, if they are those; every song is read once."""
    for song_id, members in groupby(rows, lambda row: row["song_id"]):
        artifact = store.fetch(artifacts[song_id])
        path, digest = artifact.path(LATENTS), artifact.sha256[LATENTS]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DatasetError(f"{path}: damaged since it was written; delete its folder and run build-popdb")
        latents = load(content)
        for chunk in (row["chunk"] for row in members):
            yield latents["vocal"][chunk], latents["accompaniment"][chunk]


def dataset_card(info: dict[str, Any], vocal_shares: Sequence[float]) -> str:
    """The card of a dataset: of `dataset.json` less its files, and the vocal shares that were measured."""
    template = Template(Path(__file__).with_name("card.md.j2").read_text("utf-8"), keep_trailing_newline=True)
    made_of = {name: info[name] for name in ("format_version", "source", "separator", "codec", "settings")}
    return template.render(
        info=info,
        size=[name for name, least in SIZES.items() if info["counts"]["pairs"] >= least][-1],
        frames=info["chunk_frames"],
        codec=CodecInfo.model_validate(info["codec"]),
        shares=len(vocal_shares),
        mean=np.mean(vocal_shares or [0.0]),
        bins=share_histogram(vocal_shares),
        made_of=json.dumps(made_of, indent=1, sort_keys=True),  # no line begins with a backtick
    )


def share_histogram(vocal_shares: Sequence[float]) -> list[tuple[str, int, str]]:
    """Ten bins of vocal shares: name, chunks, and a bar of text; the last one holds 1.0 too."""
    counts = np.histogram(vocal_shares, bins=[edge / 10 for edge in range(11)])[0].tolist()
    bars = ["█" * -(-WIDEST_BAR * count // max(*counts, 1)) for count in counts]  # what is there is seen
    names = (f"{i / 10:.1f} to {(i + 1) / 10:.1f}" for i in range(10))
    return list(zip(names, counts, bars, strict=True))
