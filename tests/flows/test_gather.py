"""What a run holds of the groups that its tasks have given."""

import gc
import time
import weakref
from typing import Any

import pytest
from prefect import flow, task

from flows.runner import workers
from flows.tasks import SONGS_PER_TASK, Group, gather, groups, submit
from tests.popdb.latents import small_settings

GROUPS = 20
SONGS = GROUPS * SONGS_PER_TASK
PATIENCE_S = 60.0  # for Prefect to send its events, which hold what their task was given


def none_is_held(made: list[weakref.ref[Group[int]]]) -> bool:
    """Whether all are let go at last."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        gc.collect()
        if not any(found() for found in made):
            return True
        time.sleep(0.5)
    return False


@pytest.mark.usefixtures("server")
def test_what_a_stage_gave_is_let_go_while_the_run_goes_on(tmp_path: Any) -> None:
    settings = small_settings(tmp_path)
    made: list[weakref.ref[Group[int]]] = []
    told: list[tuple[int, list[int]]] = []
    let_go: list[bool] = []

    @task
    def first(songs: Group[int], settings: Any, group: str) -> Group[int]:
        found = Group(number + 10 for number in songs)
        made.append(weakref.ref(found))
        return found

    @task
    def second(songs: Group[int], settings: Any, group: str) -> Group[int]:
        return Group(number + 100 for number in songs)

    def tell(stage: int, group: Any) -> None:
        told.append((stage, list(group)))
        if len(told) == 2 * GROUPS:  # the last of all, and the run has not ended
            let_go.append(none_is_held(made))

    @flow
    def numbers() -> list[Any]:
        with workers(settings, 2) as run:
            return gather(submit(run, (first, second), groups(range(SONGS), settings), settings), tell)

    assert numbers() == [number + 100 for number in range(10, SONGS + 10)]
    assert sorted(number for stage, group in told for number in group if stage == 0) == [
        *range(10, SONGS + 10)
    ]
    assert len(made) == GROUPS
    assert let_go == [True]
