"""The same work for many items, several at a time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    break_off: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Result]]:
    """Yield (place, result) of every item, as they are done, `workers` at a time.

    The first exception ends it: what has not begun never begins, and what is in hand is waited for.

    Args:
        work: Called in a thread, with the caller's context: a log tells by it whose run a thread works for.
        items: What to work on.
        workers: How many threads.
        break_off: Called first when it ends early, to free threads that wait for something.
    """
    over = threading.Event()

    def begin(item: Item) -> Result:
        if over.is_set():
            raise CancelledError
        with ExitStack() as failed:
            failed.callback(over.set)
            result = work(item)
            failed.pop_all()
        return result

    executor = ThreadPoolExecutor(workers)
    with ExitStack() as broken_off:
        broken_off.callback(executor.shutdown, cancel_futures=True)
        broken_off.callback(break_off)
        places = {executor.submit(copy_context().run, begin, item): i for i, item in enumerate(items)}
        for future in as_completed(places):
            if not isinstance(future.exception(), CancelledError):  # the error that ended it comes
                yield places[future], future.result()
        broken_off.pop_all()
    executor.shutdown()
