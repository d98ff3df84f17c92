"""What the tasks of both flows share: groups of songs, progress bars, the truth about what was cached."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed
from tqdm import tqdm

from samuel.config import Settings
from samuel.errors import StoppedError
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


def submit(
    stages: Sequence[Any], parts: Sequence[tuple[str, Sequence[Any]]], settings: Settings
) -> "list[list[PrefectFuture[list[Outcome]]]]":
    """Submit every stage of every part, each given what the one before it returns; the futures by stage.

    A task waits for the stage before it in a worker's place. Submitted part by part, all workers would wait
    for one; in this order a part downloads while the one before it is separated.
    """
    futures: list[list[Any]] = [[] for _ in stages]
    for tick in range(len(stages) + len(parts) - 1):
        for number, stage in enumerate(stages):
            if 0 <= (place := tick - number) < len(parts):
                name, songs = parts[place]
                given = futures[number - 1][place] if number else songs
                futures[number].append(stage.submit(given, settings, name))
    return futures


def bar(items: Iterable[Item], title: str, total: int | None = None) -> "tqdm[Item]":
    """A progress bar on a terminal; nothing where the output is a file."""
    return tqdm(items, desc=f"{title:<20}", total=total, disable=None, file=sys.stderr)


def told(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes of a task, which shows as cached when every song was done before."""
    cached = not any(outcome.worked for outcome in outcomes)
    return shown(outcomes, cached=cached, what=f"{len(outcomes)} songs")


def gather(
    stages: "Sequence[Sequence[PrefectFuture[list[Outcome]]]]", tell: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """The outcomes of the last stage, group by group; `tell` hears those of the first stage as they come.

    A stage raises only what concerns all songs (a full disk, a bot check, a bug). The first to do so ends the
    flow with its own error; others only say that they never ran, or were stopped.
    """
    first = {future.task_run_id for future in stages[0]}
    followed: Exception | None = None
    for future in as_completed([future for stage in stages for future in stage]):
        try:
            outcomes = future.result()
        except (StoppedError, UnfinishedRun) as error:
            followed = followed or error
            continue
        if future.task_run_id in first:
            tell(outcomes)
    if followed:
        raise followed
    return [outcome for future in stages[-1] for outcome in future.result()]


def shown(data: Data, *, cached: bool, what: str) -> Data:
    """A task's result, as a state named Cached where nothing had to be done; the caller gets `data` anyway.

    The files decide: Prefect's own cache would go on answering after a file is gone.
    """
    if not cached:
        return data
    return cast("Data", Completed(name="Cached", message=f"{what}: already there", data=data))
