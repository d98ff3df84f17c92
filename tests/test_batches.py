"""Batches of one network for many threads: right results, right sizes, right owners of what goes wrong."""

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

    def __init__(self, room: int = 1000, error: RuntimeError | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.room, self.tries, self.error = room, 0, error or torch.OutOfMemoryError("no room")

    def __call__(self, batch: Tensor) -> Tensor:
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


def test_batches_have_about_one_size_and_one_shape() -> None:
    for count, sizes in ((0, []), (1, [1]), (4, [4]), (9, [3, 3, 3]), (10, [4, 3, 3])):
        network = Network()
        check(items(count), Batcher(network, CPU, size=4)(items(count)))
        assert network.shapes == [(size, 3) for size in sizes]
    network = Network()
    check(items(3), Batcher(network, CPU, most=8)(items(3)))
    assert network.shapes == [(1, 3)] * 3  # where there is no GPU
    network, given = Network(), [*items(2), *items(1, length=5), *items(2)]
    check(given, Batcher(network, CPU, size=4)(given))
    assert network.shapes == [(2, 3), (1, 5), (2, 3)]


NO_ROOM = "CUDA error: out of memory", "cuFFT error: CUFFT_ALLOC_FAILED"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), *map(RuntimeError, NO_ROOM)])
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(error: RuntimeError) -> None:
    network = Network(3, error)
    batcher = Batcher(network, CPU, size=8)
    check(items(11), batcher(items(11)))  # 6 do not fit
    assert {shape[0] for shape in network.shapes} == {3, 2}
    tries = network.tries
    batcher(items(3))
    assert network.tries == tries + 1  # it does not try eight again
    with pytest.raises(MissingPartError, match=r"cpu: out of memory .* device = 'cpu'"):
        Batcher(Network(room=0), CPU, size=4)(items(2))


def gated(batch: Tensor) -> Tensor:
    ENTERED.set()
    assert GO_ON.wait(20)
    if (batch == 7.0).any():
        raise ValueError("seven")
    return 2 * batch


ENTERED, GO_ON = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def closed() -> None:
    ENTERED.clear()
    GO_ON.clear()


def test_an_error_is_its_owners_alone() -> None:
    batcher = Batcher(gated, CPU, size=3)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(batcher, [torch.tensor([7.0, 7.0, 7.0])])
        assert ENTERED.wait(20)
        second = threads.submit(batcher, items(5))  # while the network is occupied
        GO_ON.set()
        with pytest.raises(ValueError, match="seven"):
            first.result(20)
        check(items(5), second.result(20))


def test_a_cancelled_one_leaves_nobody_waiting() -> None:
    batcher = Batcher(gated, CPU, size=3)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(batcher, items(5))
        assert ENTERED.wait(20)
        second = threads.submit(batcher, items(5))
        time.sleep(0.2)  # it comes to wait
        batcher.cancel()
        GO_ON.set()
        for future in (first, second):
            with pytest.raises(StoppedError):
                future.result(20)
    check(items(2), batcher(items(2)))
