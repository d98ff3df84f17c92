"""Batches gathered from many threads: right results, right sizes, right owners of what goes wrong."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from samuel.device import Batcher
from samuel.errors import MissingPartError, StoppedError

CPU = torch.device("cpu")


class Network:
    """Doubles its input, notes the shapes it saw, and has memory for `room` items."""

    error: RuntimeError = torch.OutOfMemoryError("no room")

    def __init__(self, room: int = 1000, pause_s: float = 0.0) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.room, self.pause_s, self.tries = room, pause_s, 0

    def __call__(self, batch: Tensor) -> Tensor:
        time.sleep(self.pause_s)
        self.tries += 1
        if len(batch) > self.room:
            raise self.error
        self.shapes.append(tuple(batch.shape))
        return 2 * batch


def items(count: int, length: int = 3, first: float = 0.0) -> list[Tensor]:
    return [torch.full((length,), first + i) for i in range(count)]


def check(given: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    assert len(results) == len(given)
    assert all(torch.equal(result, 2 * item) for item, result in zip(given, results, strict=True))


def test_batches_have_the_full_size_and_one_shape() -> None:
    for count, batches in ((0, 0), (1, 1), (4, 1), (9, 3)):
        network = Network()
        check(items(count), Batcher(network, CPU, size=4)(items(count)))
        assert network.shapes == [(4, 3)] * batches
    network = Network()
    check(items(6), Batcher(network, CPU, size=4, fill=False)(items(6)))
    assert network.shapes == [(4, 3), (2, 3)]
    network = Network()
    check(items(3), Batcher(network, CPU, most=8)(items(3)))
    assert network.shapes == [(1, 3)] * 3  # where there is no GPU
    network, given = Network(), [*items(2), *items(1, length=5), *items(2)]
    check(given, Batcher(network, CPU, size=4)(given))
    assert network.shapes == [(4, 3), (4, 5)]


def test_threads_share_batches() -> None:
    network = Network(pause_s=0.02)
    batcher = Batcher(network, CPU, size=4)
    songs = [items(5, first=10.0 * i) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for given, results in zip(songs, threads.map(batcher, songs), strict=True):
            check(given, results)
    # 40 items; who finds an empty queue at the start takes a batch that is not full.
    assert 10 <= len(network.shapes) <= 12


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(error: RuntimeError) -> None:
    network = Network(room=3)
    network.error = error
    batcher = Batcher(network, CPU, size=8)
    check(items(11), batcher(items(11)))
    assert set(network.shapes) == {(2, 3)}
    tries = network.tries
    batcher(items(2))
    assert network.tries == tries + 1  # it does not try eight again
    with pytest.raises(MissingPartError, match=r"cpu: out of memory .* device = 'cpu'"):
        Batcher(Network(room=0), CPU, size=4)(items(2))


def test_everybody_in_a_batch_hears_of_its_error_and_nobody_else() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def network(batch: Tensor) -> Tensor:
        entered.set()
        go_on.wait(10)
        if (batch == 7.0).any():
            raise ValueError("seven")
        return 2 * batch

    batcher = Batcher(network, CPU, size=3)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(batcher, items(1))  # occupies the network while the others queue up
        entered.wait(10)
        second = threads.submit(batcher, [torch.tensor([7.0, 7.0, 7.0])])
        third = threads.submit(batcher, items(6, first=20.0))
        while len(batcher._queue) < 7:
            time.sleep(0.001)
        go_on.set()
        check(items(1), first.result(10))
        for failed in (second, third):
            with pytest.raises(ValueError, match="seven"):
                failed.result(10)
    assert batcher._queue == []
    check(items(2), batcher(items(2)))


def test_a_cancelled_one_leaves_nobody_waiting() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def network(batch: Tensor) -> Tensor:
        entered.set()
        go_on.wait(10)
        return 2 * batch

    batcher = Batcher(network, CPU, size=4)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(batcher, items(5)) for _ in range(2)]
        entered.wait(10)
        while len(batcher._queue) < 6:
            time.sleep(0.001)
        batcher.cancel()
        go_on.set()
        for future in waiting:
            with pytest.raises(StoppedError):
                future.result(10)
    check(items(2), batcher(items(2)))
