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
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    break_off: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Result]]:
    """Yield (place, result) of every item, as they are done, `workers` threads at a time.

    The first exception ends it: what has not begun never begins, and what is in hand is waited for. What was
    stopped by others, and nothing else, ends it with a StoppedError. Where it ends early, `break_off` is
    called to free threads that wait, again and again until all is over: some only come to wait.
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

    def end_early() -> None:
        over.set()
        executor.shutdown(wait=False, cancel_futures=True)
        break_off()
        while left := [future for future in places if not future.done()]:
            wait(left, timeout=BREAK_OFF_EVERY_S)
            break_off()

    with ExitStack() as ended_early:  # by an exception, or as the listener left
        ended_early.callback(end_early)
        for future in as_completed(places):
            if isinstance(error := future.exception(), StoppedError):
                stopped = error  # what it was stopped for may be among those to come
            else:
                yield places[future], future.result()
        ended_early.pop_all()
    executor.shutdown()
    if stopped:
        raise stopped
