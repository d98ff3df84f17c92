"""Groups of songs, and how tasks hear that their run is to end."""

import gc
import threading
import weakref
from typing import Any

import pytest
from prefect import flow, task
from prefect.utilities.collections import visit_collection

from flows.ending import asked_to_end, ending, until_ended
from flows.runner import workers
from flows.stages import (
    FIRST_TASKS,
    MOST_TASKS,
    MOST_TASKS_IN_LITTLE_SPACE,
    SONGS_PER_TASK,
    Group,
    gather,
    group_sizes,
    groups,
    submit,
)
from samuel.errors import StoppedError
from tests.popdb.latents import small_settings


def test_prefect_does_not_look_into_a_group() -> None:
    seen: list[Any] = []
    visit_collection({"songs": Group([["a"], ["b"]])}, seen.append, return_data=False)
    assert "a" not in seen
    visit_collection({"songs": [["a"], ["b"]]}, seen.append, return_data=False)
    assert "a" in seen


def test_a_group_is_a_sequence() -> None:
    group = Group(number for number in range(5))
    assert (len(group), group[1], group[-1], list(group), list(group[1:3])) == (
        5,
        1,
        4,
        [0, 1, 2, 3, 4],
        [1, 2],
    )


@pytest.mark.parametrize(
    ("songs", "audio", "tasks"),
    [
        (0, "keep", 0),
        (1, "keep", 1),
        (3, "keep", 3),
        (12, "keep", 4),
        (128, "keep", 4),
        (2_112, "keep", 66),
        (2_113, "keep", 65),
        (13_987, "keep", 66),
        (50_000, "keep", 66),
        (2_113, "remove", 67),
        (7_040, "remove", 220),
        (13_987, "remove", 220),
    ],
)
def test_every_song_is_in_one_group_and_the_tasks_stay_few(
    songs: int, audio: Any, tasks: int, tmp_path: Any
) -> None:
    settings = small_settings(tmp_path, retention={"audio": audio})
    parts = groups(range(songs), settings)
    assert [song for _, part in parts for song in part] == list(range(songs))
    assert [name for name, _ in parts] == [f"songs {part[0] + 1}-{part[-1] + 1}" for _, part in parts]
    assert [len(part) for _, part in parts] == group_sizes(songs, settings)
    assert len(parts) == tasks <= (MOST_TASKS if audio == "keep" else MOST_TASKS_IN_LITTLE_SPACE)


@pytest.mark.parametrize("songs", [2_113, 13_987, 50_000])
def test_the_first_groups_of_a_long_list_are_small(songs: int, tmp_path: Any) -> None:
    sizes = group_sizes(songs, small_settings(tmp_path))
    assert sizes[:FIRST_TASKS] == [SONGS_PER_TASK] * FIRST_TASKS
    assert max(sizes) - min(sizes[FIRST_TASKS:-1]) == 0  # the others are as large as each other
    assert max(sizes) < 1.2 * songs / MOST_TASKS


@pytest.mark.usefixtures("server")
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


@pytest.mark.usefixtures("server")
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


@pytest.mark.usefixtures("server")
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


@pytest.mark.usefixtures("server")
def test_what_a_stage_gave_is_let_go_while_the_run_goes_on(tmp_path: Any) -> None:
    settings = small_settings(tmp_path)
    made: list[weakref.ref[Group[int]]] = []
    told: list[tuple[int, list[int]]] = []
    alive: list[int] = []

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
        gc.collect()
        alive.append(sum(found() is not None for found in made))

    @flow
    def numbers() -> list[Any]:
        with workers(settings, 2) as run:
            return gather(submit(run, (first, second), groups(range(640), settings), settings), tell)

    assert numbers() == [number + 100 for number in range(10, 650)]
    assert sorted(number for stage, group in told for number in group if stage == 0) == [*range(10, 650)]
    assert len(made) == 20
    assert alive[-1] < 10  # a thread may still hold its last
