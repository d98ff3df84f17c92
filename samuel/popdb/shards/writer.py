"""The dataset of a list of songs, and a dataset that has grown.

The same songs in the same dataset give the same bytes, whatever the order in which they were finished;
compacted, the same bytes as written at once.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from safetensors.torch import load

from samuel.config import Settings
from samuel.errors import DatasetError, InputError
from samuel.files import Entry
from samuel.pieces import Pieces
from samuel.popdb.outcome import Outcome
from samuel.popdb.shards.commit import settle
from samuel.popdb.shards.index import LATENTS, PLACE, Row, pair_rows, place
from samuel.popdb.shards.reader import Popdb, open_folder, readable
from samuel.popdb.shards.remote import folder_of
from samuel.popdb.shards.save import Content, Pair, save, shard_number, sweep
from samuel.popdb.songs import chunks_kept, same_recordings, song_rows, why_no_pairs
from samuel.store import pieces_of

MADE_OF = ("source", "separator", "codec", "chunk_frames", "settings")


def write_popdb(outcomes: list[Outcome], settings: Settings) -> Popdb:
    """Make the dataset hold every encoded song among `outcomes`, and nothing else.

    Pairs that it holds already stay where they are. Nothing is written where nothing has changed.

    Args:
        outcomes: One per song of the list, failures included.
        settings: Where and how.

    Raises:
        InputError: No song was encoded, or no chunk is sung enough; or a dataset of another source is there.
        OperatorError: The disk is full, or another machine is writing the dataset.
    """
    config, least = settings.popdb, settings.popdb.min_vocal_share
    outcomes = sorted(outcomes, key=lambda outcome: outcome.song.song_id)
    groups = same_recordings(outcomes)
    songs = song_rows(outcomes, groups, least)
    kept = [outcome for outcome in outcomes if chunks_kept(outcome, least)]
    if not kept:
        raise InputError(f"{why_no_pairs(songs, least)}; nothing was written to {settings.popdb_path}")
    made_of = {
        **{part: kept[0].record[part] for part in ("codec", "separator")},
        "source": settings.songs.source,
        "chunk_frames": config.chunk_frames,
        "settings": config.model_dump(mode="json", exclude={"path", "cache"}),
    }
    rows = pair_rows(kept, groups, least, config.validation_share, config.seed)
    entries = {outcome.song.song_id: outcome.entry for outcome in kept if outcome.entry}
    pieces = pieces_of(settings)
    content = Content(
        rows, lambda new: _encoded(new, entries, pieces), songs, made_of, config.pairs_per_shard
    )
    folder = folder_of(settings.popdb_path, config.cache)
    with folder.locked():
        settle(folder)
        old = readable(folder)
        _require_same_source(old, made_of["source"])
        return save(folder, replace(content, rows=_placed_in(rows, old, made_of)), old)


def require_place(settings: Settings) -> None:
    """Before the long work: may the dataset be written where the settings say?

    Raises:
        InputError: A dataset of another source is there.
        DatasetError: One of a newer format is.
        OperatorError: The place cannot be reached.
    """
    folder = folder_of(settings.popdb_path, settings.popdb.cache)
    _require_same_source(readable(folder), settings.songs.source)


def _require_same_source(old: Popdb | None, source: str) -> None:
    """Songs of another kind are another dataset: to remove it is for a person to do."""
    if old and old.info["source"] != source:
        raise InputError(
            f"{old.location}: a dataset from the source {old.info['source']!r} is there, and this one is "
            f"from {source!r}; set popdb.path, or delete it"
        )


def compact(location: Path | str, cache: Path | None = None) -> Popdb:
    """Rewrite a dataset that has grown: full shards in the order of the index, nothing that was buried.

    What comes out has the same bytes as the same songs written at once. Nothing is read or written where it
    is like that already.

    Raises:
        DatasetError: There is none, or a pair to copy is not what was written: repair it first.
        OperatorError: The disk is full, or another machine is writing the dataset.
    """
    folder = folder_of(location, cache)
    with folder.locked():
        settle(folder)
        old = open_folder(folder)
        if _is_compact(old):
            sweep(folder)
            return old
        return save(folder, content_of(old, [without_place(row) for row in old.index]), old)


def _is_compact(popdb: Popdb) -> bool:
    size = popdb.info["settings"]["pairs_per_shard"]
    places = [(shard_number(row["shard"]), row["row"]) for row in popdb.index]
    return not popdb.tombstones and places == [divmod(i, size) for i in range(len(places))]


def content_of(popdb: Popdb, rows: Sequence[Row]) -> Content:
    """The content of a dataset with these rows of it; those without a place are copied."""
    made_of = {name: popdb.info[name] for name in MADE_OF}
    lying = {row["pair_id"]: row for row in popdb.index}

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        return (popdb.read_checked(lying[row["pair_id"]]) for row in new)

    songs, size = popdb.songs().to_pylist(), popdb.info["settings"]["pairs_per_shard"]
    return Content(rows, read, songs, made_of, size)


def without_place(row: Row) -> Row:
    """A row as it is before its latents are in a shard."""
    return {name: value for name, value in row.items() if name not in PLACE}


def _placed_in(rows: Sequence[Row], old: Popdb | None, made_of: dict[str, Any]) -> Sequence[Row]:
    """`rows`, with the place of each pair that the old dataset holds whole."""
    parts = ("codec", "separator", "chunk_frames")
    if old is None or any(old.info[part] != made_of[part] for part in parts):
        return rows
    sizes = old.state.folder.sizes("shards")
    whole = {name for name, size in sizes.items() if old.info["files"].get(name, {}).get("bytes") == size}
    return place(rows, [row for row in [*old.index, *old.tombstones] if row["shard"] in whole])


def _encoded(rows: Sequence[Row], entries: Mapping[str, Entry], pieces: Pieces) -> Iterator[Pair]:
    """The latents of rows from what the stages left; every song is read once.

    Raises:
        DatasetError: They are not those that were encoded.
        OperatorError: They are gone.
    """
    for song_id, members in groupby(rows, lambda row: row["song_id"]):
        entry = pieces.at_hand(entries[song_id])
        path, digest = entry.path(LATENTS), entry.sha256[LATENTS]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DatasetError(f"{path}: damaged since it was written; delete its folder and run build-popdb")
        latents = load(content)
        for chunk in (row["chunk"] for row in members):
            yield latents["vocal"][chunk], latents["accompaniment"][chunk]
