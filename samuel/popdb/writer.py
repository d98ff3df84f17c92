"""Writing a dataset: new files beside the old, one step that makes them the dataset, then the old ones go.

The pairs are in the order of their songs' ids, every shard but the last is full, and a file is named by its
digest: the same songs give the same bytes, however the dataset came to hold them. A writer that is stopped at
any moment leaves the old dataset or the new one, and files that the next writer removes.

Shapes: N pairs of a shard, C latent channels, T frames.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
from safetensors.torch import load
from torch import Tensor

from samuel.artifacts import Artifact, Store, explain_full_disk, json_bytes
from samuel.config import Settings
from samuel.errors import DatasetError, InputError, NewerFormatError
from samuel.popdb import tables
from samuel.popdb.card import dataset_card
from samuel.popdb.dataset import (
    CARD,
    FORMAT_VERSION,
    MANIFEST,
    OWN_NAME,
    Popdb,
    content_digest,
    read_manifest,
    read_popdb,
)
from samuel.popdb.folder import Folder, open_folder
from samuel.popdb.shards import ChannelFigures, ChannelSums, Halves, empty_batch, pair_sha256, shard_bytes
from samuel.popdb.status import Outcome
from samuel.popdb.tables import LATENTS, Row, chunks_kept

MOST_SHARD_FRAMES = 2**18  # 256 pairs of 1024 frames
# What a writer that was killed may leave; and the files of the formats before.
SWEPT = re.compile(
    rf"({OWN_NAME.pattern})|(shards/)?[.].+[.]\d+-\d+[.]tmp|shards/\d{{5,}}-[0-9a-f]{{12}}[.]safetensors"
    "|(index|songs|tombstones)[.]parquet|stats[.]json"
)

Pair = tuple[Tensor, Tensor]
Listed = dict[str, Any]


@dataclass(frozen=True)
class Content:
    """What a dataset is to hold."""

    rows: Sequence[Row]  # its pairs in the order of the index, without their places
    read: Callable[[Sequence[Row]], Iterable[Pair]]  # rows → their latents, each float16 (C, T)
    songs: Sequence[Row]  # the table of songs
    made_of: dict[str, Any]  # of `dataset.json`: source, separator, codec, chunk_frames and settings


def write_popdb(outcomes: Sequence[Outcome], settings: Settings, store: Store | None = None) -> Popdb:
    """Make the dataset hold every encoded song among `outcomes`, and nothing else.

    Nothing is written where nothing has changed and all that is there is sound.

    Args:
        outcomes: One per song of the list, failures included.
        settings: Where and how.
        store: Has the latents of the songs; none: that of the settings.

    Raises:
        InputError: No song was encoded, or no chunk is sung enough; or a dataset of another source is there.
        OperatorError: The disk is full, or another machine is writing the dataset.
    """
    config, least = settings.popdb, settings.popdb.min_vocal_share
    outcomes = sorted(outcomes, key=lambda outcome: outcome.song.song_id)
    groups = tables.same_recordings(outcomes)
    songs = tables.song_rows(outcomes, groups, least)
    kept = [outcome for outcome in outcomes if chunks_kept(outcome, least)]
    if not kept:
        raise InputError(f"{tables.why_no_pairs(songs, least)}; nothing was written to {settings.popdb_path}")
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
        _require_same_source(old := readable(folder), made_of["source"])
        return save(folder, content, old)


def require_place(settings: Settings) -> None:
    """Before the long work: raise what `write_popdb` would, because of the place that the settings say."""
    old = readable(open_folder(settings.popdb_path, settings.popdb.cache))
    _require_same_source(old, settings.songs.source)


def readable(folder: Folder) -> Popdb | None:
    """The dataset in a folder; None where there is none, or a damaged one, or one of an older format."""
    try:
        return read_popdb(folder)
    except NewerFormatError:
        raise
    except DatasetError:
        return None


def save(folder: Folder, content: Content, old: Popdb | None) -> Popdb:
    """Write what is not there yet, and make it the dataset in one step; the caller holds the lock."""
    files = _Files(folder)
    kept: Collection[str] = folder.sizes()  # until it is done: what is there may be a dataset that is damaged
    remedy = "the dataset there is as it was. Free some space, and run it again"
    try:
        with explain_full_disk(folder.location, remedy):
            rows, stats = _keep_shards(files, content, old) or _write_shards(files, content)
            info = content.made_of | {
                "format_version": FORMAT_VERSION,
                "content_sha256": content_digest(rows),
                "counts": tables.counts_of(rows, content.songs),
                "stats": stats,
                "index": files.add("index-{}.parquet", tables.table_bytes(rows, tables.INDEX_SCHEMA)),
                "songs": files.add(
                    "songs-{}.parquet", tables.table_bytes(content.songs, tables.SONGS_SCHEMA)
                ),
            }
            shares = [share for song in content.songs for share in song["vocal_shares"] if share is not None]
            card = dataset_card(info, shares).encode()
            info["files"] = files.listed | {CARD: _listed(card)}
            files.put(MANIFEST, json_bytes(info))  # from here on it is the dataset
            files.put(CARD, card)
            kept = ()
    finally:
        try:
            listed = read_manifest(folder)["files"]
        except DatasetError:
            listed = {}
        unknown = folder.sizes().keys() - listed.keys() - set(kept)
        folder.remove(name for name in unknown if SWEPT.fullmatch(name))
    return replace(read_popdb(folder), made=files.changed)


class _Files:
    """Puts files where they are not there yet."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.changed = folder, False
        self.listed: dict[str, Listed] = {}  # name → size and digest, as `dataset.json` names it

    def add(self, pattern: str, content: bytes) -> str:
        """Have a file with this content there, and list it; its name, which holds its digest."""
        listed = _listed(content)
        name = pattern.format(listed["sha256"][:16])
        self.put(name, content, listed)
        self.listed[name] = listed
        return name

    def put(self, name: str, content: bytes, listed: Listed | None = None) -> None:
        """Have a file with this content there."""
        digest = (listed or _listed(content))["sha256"]
        if self.folder.sha256(name) != digest:
            self.folder.put(name, content, digest)
            self.changed = True


def _listed(content: bytes) -> Listed:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _keep_shards(
    files: _Files, content: Content, old: Popdb | None
) -> tuple[list[Row], ChannelFigures] | None:
    """The rows with their places, and the statistics, where the shards of the old dataset hold them all."""
    size, known = (
        content.made_of["settings"]["pairs_per_shard"],
        itemgetter("pair_id", "latents_sha256", "split"),
    )
    if old is None or old.info["settings"]["pairs_per_shard"] != size:
        return None
    if list(map(known, old.index)) != list(map(known, content.rows)):
        return None
    shards = {row["shard"]: old.info["files"][row["shard"]] for row in old.index}
    if any(files.folder.sha256(name) != listed["sha256"] for name, listed in shards.items()):
        return None
    files.listed |= shards
    places = ({name: row[name] for name in ("shard", "row", "pair_sha256")} for row in old.index)
    return [row | place for row, place in zip(content.rows, places, strict=True)], old.stats


def _write_shards(files: _Files, content: Content) -> tuple[list[Row], ChannelFigures]:
    """Write all pairs into shards; the rows with their places, and the statistics of those to train on."""
    rows: list[Row] = []
    sums = ChannelSums()
    with ThreadPoolExecutor(1) as disk:
        for members, latents in _batches(content):
            added = disk.submit(files.add, "shards/{}.safetensors", shard_bytes(latents))
            digests: list[str] = []
            for row, pair in zip(members, latents.swapaxes(0, 1), strict=True):  # while it is written
                digests.append(pair_sha256(*pair))
                if row["split"] == "train":
                    sums.add(*pair)
            name = added.result()
            rows += [
                row | {"shard": name, "row": place, "pair_sha256": digest}
                for place, (row, digest) in enumerate(zip(members, digests, strict=True))
            ]
    return rows, sums.statistics()


def _batches(content: Content) -> Iterator[tuple[Sequence[Row], Halves]]:
    """The rows of each shard, and their latents (2, N, C, T) in memory that the next ones take over."""
    frames, most = content.made_of["chunk_frames"], content.made_of["settings"]["pairs_per_shard"]
    size = min(most, len(content.rows), max(1, MOST_SHARD_FRAMES // frames))
    pairs = iter(content.read(content.rows))
    first = next(pairs)
    room = empty_batch(size, *first[0].shape)  # fresh memory for every shard takes longer
    pairs = chain([first], pairs)
    for start in range(0, len(content.rows), size):
        members = content.rows[start : start + size]
        for place, pair in enumerate(islice(pairs, len(members))):
            for half, latents in zip(room[:, place], pair, strict=True):
                np.copyto(half, latents.numpy(), casting="no")
        yield members, room[:, : len(members)]


def _require_same_source(old: Popdb | None, source: str) -> None:
    """Songs of another kind are another dataset: to remove it is for a person to do."""
    if old and old.info["source"] != source:
        there = f"a dataset from the source {old.info['source']!r} is there, and this one is from {source!r}"
        raise InputError(f"{old.location}: {there}; set popdb.path, or delete it")


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
