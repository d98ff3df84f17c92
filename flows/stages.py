"""What the tasks of both flows share: groups of songs, progress bars, the truth about what was cached."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed
from tqdm import tqdm

from samuel.popdb.outcome import Outcome

Item = TypeVar("Item")
Data = TypeVar("Data")

SONGS_PER_TASK = 32  # 13,000 songs are then some 1,200 task runs, which Prefect's recorder keeps up with
TASKS_PER_STAGE = 4  # a dozen songs still make four tasks a stage, so that the stages overlap


def groups(songs: Sequence[Item]) -> list[tuple[str, Sequence[Item]]]:
    """Songs in the groups that one task takes, each with its name, such as `songs 1-3`."""
    size = max(1, min(SONGS_PER_TASK, -(-len(songs) // TASKS_PER_STAGE)))
    parts = [songs[start : start + size] for start in range(0, len(songs), size)]
    return [(f"songs {i * size + 1}-{i * size + len(part)}", part) for i, part in enumerate(parts)]


def bar(items: Iterable[Item], title: str, total: int | None = None) -> "tqdm[Item]":
    """A progress bar on a terminal; nothing where the output is a file."""
    return tqdm(items, desc=f"{title:<20}", total=total, disable=None, file=sys.stderr)


def run_stage(songs: Sequence[Any], work: Callable[[Any], Outcome], title: str) -> list[Outcome]:
    """Do `work` for each song; the task shows as cached when every song was done before."""
    outcomes = [work(song) for song in bar(songs, title)]
    return shown(outcomes, cached=not any(outcome.worked for outcome in outcomes), what=f"{len(songs)} songs")


def gather(stages: "Sequence[tuple[PrefectFuture[list[Outcome]], ...]]") -> list[Outcome]:
    """The outcomes of the last stage of every group, in order.

    A stage raises only what concerns all songs (a full disk, a bot check, a bug). The first to do so ends the
    flow with its own error; a stage that waited for it would only say that it never ran.
    """
    for future in as_completed([future for group in stages for future in group]):
        future.result()
    return [outcome for group in stages for outcome in group[-1].result()]


def shown(data: Data, *, cached: bool, what: str) -> Data:
    """A task's result, as a state named Cached where nothing had to be done; the caller gets `data` anyway.

    The files decide: Prefect's own cache would go on answering after a file is gone.
    """
    if not cached:
        return data
    return cast("Data", Completed(name="Cached", message=f"{what}: already there", data=data))
