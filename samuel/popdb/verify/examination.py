"""All checks of a dataset, from the outside in: what a later one relies on, an earlier one has looked at."""

from dataclasses import dataclass, field, replace

from samuel.errors import DatasetError
from samuel.popdb.shards.commit import State, state_of
from samuel.popdb.shards.folder import Folder
from samuel.popdb.shards.index import Row
from samuel.popdb.shards.manifest import SHARD, STATS
from samuel.popdb.verify.fault import Fault
from samuel.popdb.verify.leakage import leakage_faults
from samuel.popdb.verify.manifest import manifest_faults, pending_faults, read_beside, unreadable
from samuel.popdb.verify.shards import check_shards, shards_of
from samuel.popdb.verify.statistics import statistics_faults
from samuel.popdb.verify.tables import (
    Tables,
    count_faults,
    index_faults,
    place_faults,
    read_tables,
    song_faults,
)


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        state: The dataset; None where there is none that can be opened.
        faults: What is wrong with it.
        tables: Its rows.
    """

    state: State | None
    faults: list[Fault]
    tables: Tables = field(default_factory=lambda: Tables(None, None, None))

    @property
    def lines(self) -> list[str]:
        """A line for each fault."""
        return [fault.line for fault in self.faults]

    @property
    def mendable(self) -> bool:
        """True where a repair can do something about all of it."""
        return not any(fault.final for fault in self.faults)


def examine(folder: Folder) -> Examined:
    """Check the dataset in a folder; anew where it was replaced in the meantime."""
    while True:
        state = opened(folder)
        if isinstance(state, Fault):
            return Examined(None, [state])
        found = _examine(state)
        now = opened(folder)
        if (
            not found.faults
            or not isinstance(now, State)
            or (now.info, now.pending) == (state.info, state.pending)
        ):
            return found


def opened(folder: Folder) -> State | Fault:
    """The dataset in a folder, or why it cannot be opened."""
    try:
        return state_of(folder)
    except DatasetError as error:
        return Fault(str(error), final=True)
    except OSError as error:
        return unreadable(folder.location, error)


def _examine(state: State) -> Examined:
    if faults := manifest_faults(state.info):
        return Examined(state, faults)
    contents, faults = read_beside(state)
    tables, wrong = read_tables(contents)
    found = Examined(state, [*pending_faults(state), *faults, *wrong], tables)
    if tables.index is None or tables.songs is None:
        return found
    more = _faults(state, contents.get(STATS), tables.index, tables.songs, tables.tombstones or [])
    return replace(found, faults=[*found.faults, *more])


def _faults(
    state: State, stats: bytes | None, index: list[Row], songs: list[Row], tombstones: list[Row]
) -> list[Fault]:
    info, training = state.info, sum(row["split"] == "train" for row in index)
    shards = shards_of(state.folder, info["files"], index, tombstones)
    checked = check_shards(state.folder, shards, info["chunk_frames"])
    return [
        *index_faults(info, index),
        *place_faults(info, index, tombstones),
        *song_faults(index, songs),
        *count_faults(info, index, songs, tombstones),
        *checked.faults,
        *_left_over(state, index),
        *leakage_faults(index, songs),
        *(statistics_faults(stats, checked.sums, training) if stats is not None else []),
    ]


def _left_over(state: State, index: list[Row]) -> list[Fault]:
    known = {row["shard"] for row in index} | set(state.info["files"])
    left = sorted(
        name for name in state.folder.sizes("shards") if name not in known and SHARD.fullmatch(name)
    )
    text = "left over by a write that was stopped, or of one that is going on"
    return [Fault(f"{name}: {text}; --repair removes it") for name in left]
