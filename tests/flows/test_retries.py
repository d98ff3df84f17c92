"""Which faults of a task are tried again."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prefect import flow, task

from flows.build_popdb import (
    assemble,
    download,
    encode,
    separate,
)
from flows.tasks import RETRIED
from samuel.errors import MissingPartError, OperatorError

AT_ONCE = {**RETRIED, "retry_delay_seconds": 0}


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def tries(error: Exception, times: int) -> int:
    """How often a task runs that fails so often by `error`."""
    runs: list[int] = []

    @task(**AT_ONCE)
    def work() -> None:
        runs.append(1)
        if len(runs) <= times:
            raise error

    @flow
    def one() -> Any:
        return work(return_state=True)

    one(return_state=True)
    return len(runs)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        TimeoutError("too long"),
        httpx.ConnectError("refused"),
        caused(OperatorError("s3://bucket: not reached"), ConnectionRefusedError()),
    ],
)
def test_a_connection_that_comes_back_is_waited_for(server: str, error: Exception) -> None:
    assert tries(error, times=2) == 3


@pytest.mark.parametrize(
    "error",
    [OperatorError("the disk is full"), MissingPartError("no weights"), OSError(28, "full"), ValueError()],
)
def test_what_does_not_mend_itself_is_shown_at_once(server: str, error: Exception) -> None:
    assert tries(error, times=2) == 1


def test_the_last_try_tells_what_was_wrong(server: str) -> None:
    assert tries(ConnectionResetError("reset"), times=99) == 1 + RETRIED["retries"]


def pauses() -> Iterator[float]:
    yield from RETRIED["retry_delay_seconds"](RETRIED["retries"])


def test_pauses_grow() -> None:
    assert list(pauses()) == [10, 20, 40, 80, 160]


@pytest.mark.parametrize("stage", [download, separate, encode, assemble])
def test_every_stage_is_retried(stage: Any) -> None:
    assert stage.retries == 5
    assert stage.retry_condition_fn is RETRIED["retry_condition_fn"]
