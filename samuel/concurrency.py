"""The same work for many items, several at a time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack
from contextvars import copy_context
from typing import TypeVar

from samuel.errors import StoppedError

BREAK_OFF_EVERY_S = 0.2

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int,
    break_off: Callable[[], object] = lambda: None
) -> Iterator[tuple[int, Result]]:  # fmt: skip
    """Yield (place, result) of every item, as they are done, `workers` threads at a time.

    The first exception ends it, a StoppedError last: nothing more begins, and what is in hand is waited for,
    while `break_off` is called again and again to free threads that come to wait.
    """
    over, stopped = threading.Event(), list[StoppedError]()

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
    try:
        for future in as_completed(places):
            if isinstance(error := future.exception(), StoppedError):
                stopped.append(error)  # what it was stopped for may be among those to come
            else:
                yield places[future], future.result()
    finally:  # all are done; or an exception, or the listener who left, ends it early
        over.set()
        executor.shutdown(wait=False, cancel_futures=True)
        while left := [future for future in places if not future.done()]:
            break_off()
            wait(left, timeout=BREAK_OFF_EVERY_S)
        executor.shutdown()
    if stopped:
        raise stopped[0]
