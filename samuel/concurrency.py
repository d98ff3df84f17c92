"""The same work for many items, several at a time."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any, TypeVar

from samuel.errors import StoppedError

BREAK_OFF_EVERY_S = 0.2

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    break_off: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Result]]:
    """Yield (place, result) of every item, as they are done, `workers` at a time.

    The first exception ends it: what has not begun never begins, and what is in hand is waited for. What was
    stopped by others, and nothing else, ends it with a StoppedError.

    Args:
        work: Called in a thread, with the caller's context: a log tells by it whose run a thread works for.
        items: What to work on.
        workers: How many threads.
        break_off: Called when it ends early, and again until all is over, to free threads that wait.
    """
    over = threading.Event()

    def begin(item: Item) -> Result:
        if over.is_set():
            raise StoppedError("not begun: the run ended")
        with ExitStack() as failed:
            failed.callback(over.set)
            result = work(item)
            failed.pop_all()
        return result

    executor = ThreadPoolExecutor(workers)
    # Each with the caller's context, or a log could not tell whose run a thread works for.
    places = {executor.submit(copy_context().run, begin, item): i for i, item in enumerate(items)}
    stopped: StoppedError | None = None
    with ExitStack() as broken_off:
        broken_off.callback(_end, executor, places, over, break_off)
        for future in as_completed(places):
            if isinstance(error := future.exception(), StoppedError):
                stopped = error  # what it was stopped for may be among those to come
            else:
                yield places[future], future.result()
        if stopped:
            raise stopped
        broken_off.pop_all()
    executor.shutdown()


def _end(
    executor: ThreadPoolExecutor,
    futures: Iterable["Future[Any]"],
    over: threading.Event,
    break_off: Callable[[], object],
) -> None:
    """Begin nothing more, and free those who wait until nobody does: some only come to wait."""
    over.set()
    executor.shutdown(wait=False, cancel_futures=True)
    break_off()
    while left := [future for future in futures if not future.done()]:
        wait(left, timeout=BREAK_OFF_EVERY_S)
        break_off()
