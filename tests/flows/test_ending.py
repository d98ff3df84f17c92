"""How tasks hear that their run is to end."""

import threading
from typing import Any

import pytest
from prefect import flow, task

from flows.runner import asked_to_end, ending, until_ended, workers
from samuel.errors import StoppedError
from tests.popdb.latents import small_settings

pytestmark = pytest.mark.usefixtures("server")


def test_the_end_of_a_run_is_heard_by_its_tasks(tmp_path: Any) -> None:
    settings, begun, heard = small_settings(tmp_path), threading.Event(), threading.Event()

    @task
    def long() -> None:
        ends = asked_to_end()
        begun.set()
        while not ends():
            pass
        heard.set()

    @flow
    def broken() -> None:
        with workers(settings, 1) as run, ending():
            run.submit(long)
            begun.wait(60)
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        broken()
    assert heard.is_set()


def test_what_is_told_ends_when_the_run_does() -> None:
    told: list[int] = []

    @flow
    def broken() -> None:
        tell = until_ended(told.append)
        tell(1)
        with pytest.raises(ValueError, match="a bug"), ending():
            raise ValueError("a bug")
        with pytest.raises(StoppedError, match="the run has ended"):
            tell(2)

    broken()
    assert told == [1, 2]


def test_a_run_that_is_tried_again_is_not_ending() -> None:
    @flow
    def again() -> list[bool]:
        ends = asked_to_end()
        with pytest.raises(ValueError, match="a bug"), ending():
            raise ValueError("a bug")
        before = ends()
        with ending():
            return [before, ends()]

    assert again() == [True, False]
