"""What the tasks of both flows share: submitting, gathering, bars, and the truth about what was cached."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.states import Completed
from tqdm import tqdm

from flows.groups import Group
from flows.runner import Workers
from samuel.config import Settings
from samuel.errors import StoppedError
from samuel.popdb.outcome import Outcome

Item = TypeVar("Item")
Data = TypeVar("Data")


def submit(
    run: Workers, stages: Sequence[Any], parts: Sequence[tuple[str, Sequence[Any]]], settings: Settings
) -> "list[list[PrefectFuture[Group[Outcome]]]]":
    """Submit every stage of every part, each given what the one before it returns; the futures by stage.

    All but the first compute. A task waits for the stage before it in a worker's place. Submitted part by
    part, all workers would wait for one; in this order a part downloads while the one before it is separated.
    """
    futures: list[list[Any]] = [[] for _ in stages]
    for tick in range(len(stages) + len(parts) - 1):
        for number, stage in enumerate(stages):
            if 0 <= (place := tick - number) < len(parts):
                name, songs = parts[place]
                given = futures[number - 1][place] if number else songs
                future = run.submit(stage, computes=number > 0, songs=given, settings=settings, group=name)
                futures[number].append(future)
    return futures


def bar(items: Iterable[Item], title: str, total: int | None = None) -> "tqdm[Item]":
    """A progress bar on a terminal; nothing where the output is a file."""
    return tqdm(items, desc=f"{title:<20}", total=total, disable=None, file=sys.stderr)


def told(outcomes: Sequence[Outcome]) -> Group[Outcome]:
    """The outcomes of a task, which shows as cached when every song was done before."""
    cached = not any(outcome.worked for outcome in outcomes)
    return shown(Group(outcomes), cached=cached, what=f"{len(outcomes)} songs")


def gather(
    stages: "list[list[PrefectFuture[Group[Outcome]]]]",
    tell: Callable[[int, Sequence[Outcome]], None],
) -> list[Outcome]:
    """The outcomes of the last stage, group by group; `tell` hears those of every stage as they come.

    A stage raises only what concerns all songs (a full disk, a bot check, a bug). The first to do so ends the
    flow with its own error; others only say that they never ran, or were stopped.

    Args:
        stages: What `submit` gave; emptied, for a future keeps what its task brought.
        tell: Given the number of a stage, and what became of some songs there.
    """
    followed: Exception | None = None
    last: dict[int, Group[Outcome]] = {}
    final = len(stages) - 1
    for stage, place, future in _as_they_end(stages):
        try:
            outcomes = future.result()
        except (StoppedError, UnfinishedRun) as error:
            followed = followed or error
            continue
        tell(stage, outcomes)
        if stage == final:
            last[place] = outcomes
    if followed:
        raise followed
    return [outcome for place in sorted(last) for outcome in last[place]]


def _as_they_end(
    stages: "list[list[PrefectFuture[Data]]]",
) -> "Iterator[tuple[int, int, PrefectFuture[Data]]]":
    """Stage, place and future of each that ends; Prefect's own `as_completed` would hold all of them."""
    where = {f.task_run_id: (s, p) for s, stage in enumerate(stages) for p, f in enumerate(stage)}
    ended = SimpleQueue[PrefectFuture[Data]]()
    while stages:
        for future in stages.pop():
            future.add_done_callback(ended.put)
    for _ in where:
        future = ended.get()
        yield *where[future.task_run_id], future


def shown(data: Data, *, cached: bool, what: str) -> Data:
    """A task's result, as a state named Cached where nothing had to be done; the caller gets `data` anyway.

    The files decide: Prefect's own cache would go on answering after a file is gone.
    """
    if not cached:
        return data
    return cast("Data", Completed(name="Cached", message=f"{what}: already there", data=data))
