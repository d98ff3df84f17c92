"""Side by side: every item once, the first error ends it, nothing begins after it."""

import contextvars
import threading
import time

import pytest

from samuel.concurrency import side_by_side
from samuel.errors import StoppedError


def test_every_item_once_with_its_place_so_many_at_a_time_in_the_callers_context() -> None:
    run = contextvars.ContextVar("run", default=0)
    run.set(10)
    together = threading.Barrier(3, timeout=20)

    def work(item: int) -> int:
        together.wait()
        return item * run.get()

    assert dict(side_by_side(work, [5, 6, 7, 8, 9, 10], 3)) == {0: 50, 1: 60, 2: 70, 3: 80, 4: 90, 5: 100}


def test_the_first_error_ends_it_and_frees_those_who_wait_whenever_they_come_to_wait() -> None:
    begun: list[int] = []
    both, waiting, freed = threading.Barrier(2, timeout=20), threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        both.wait()
        if item == 0:
            raise OSError("disk")
        time.sleep(0.5)  # the end has come and gone
        waiting.set()
        assert freed.wait(20)
        raise StoppedError("freed")

    def free() -> None:
        if waiting.is_set():  # as a queue can only drop who is in it
            freed.set()

    with pytest.raises(OSError, match="disk"):
        list(side_by_side(work, range(50), 2, free))
    assert sorted(begun) == [0, 1]


def test_who_stops_listening_ends_it() -> None:
    freed, begun = threading.Event(), list[int]()

    def work(item: int) -> None:
        begun.append(item)
        assert item == 0 or freed.wait(20)

    results = side_by_side(work, range(100), 1, freed.set)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert begun in ([0], [0, 1])
