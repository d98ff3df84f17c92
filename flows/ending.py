"""Lets the tasks of a flow run know that it ends, where they are threads: nothing else can stop a thread."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from prefect.runtime import flow_run

from samuel.errors import StoppedError

Told = TypeVar("Told")

_ending: set[str] = set()


@contextmanager
def ending() -> Iterator[None]:
    """Within, whatever ends the run early (an error, a cancellation, SIGTERM) is told to its tasks."""
    run = str(flow_run.id)
    begin(run)
    with ExitStack() as early:
        early.callback(end, run)
        yield
        early.pop_all()


def begin(run: str) -> None:
    """Forget that a flow run was to end: it is tried again."""
    _ending.discard(run)


def end(run: str) -> None:
    """Tell the tasks of a flow run that this process has."""
    _ending.add(run)


def asked_to_end() -> Callable[[], bool]:
    """What tells a task whether its run is ending; cheap enough for every step."""
    run = str(flow_run.id)
    return lambda: run in _ending


def until_ended(tell: Callable[[Told], object]) -> Callable[[Told], None]:
    """What tells, and then lets nothing more begin once the run is to end; to be made within a task.

    Raises:
        StoppedError: It is to end.
    """
    ends = asked_to_end()

    def told(what: Told) -> None:
        tell(what)
        if ends():
            raise StoppedError("the run has ended; started again, it goes on where it was")

    return told
