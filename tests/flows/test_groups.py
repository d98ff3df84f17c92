"""Groups of songs."""

from typing import Any

import pytest
from prefect.utilities.collections import visit_collection

from flows.tasks import (
    FIRST_TASKS,
    MOST_TASKS,
    MOST_TASKS_IN_LITTLE_SPACE,
    SONGS_PER_TASK,
    Group,
    group_sizes,
    groups,
)
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
