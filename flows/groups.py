"""Songs in the groups that one task takes."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar, overload

from samuel.config import Settings

Item = TypeVar("Item")


class Group(Sequence[Item]):
    """Songs, or what became of them, as one thing.

    Prefect looks for futures in every field of every element of a list that a task is given or gives back:
    more than half of the time of a run that finds everything done.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        """An element, or several."""
        return self._items[place]


SONGS_PER_TASK = 32  # of a list that is not long: Demucs takes minutes on a GPU, an hour or two on a CPU
LEAST_TASKS = 4  # of a stage: a dozen songs still make four tasks, so that the stages overlap
MOST_TASKS = 66  # of a stage: with 200 in all, the UI's page of a run takes 2 s, and with 660 more than 3
MOST_TASKS_IN_LITTLE_SPACE = 220  # where audio is removed: it lies there until its group is encoded
FIRST_TASKS = 8  # of a long list: they are small all the same, so that there is soon something to see


def group_sizes(songs: int, settings: Settings) -> list[int]:
    """How many songs each task of a stage takes, of so many."""
    most = MOST_TASKS_IN_LITTLE_SPACE if settings.retention.audio == "remove" else MOST_TASKS
    size = max(1, min(SONGS_PER_TASK, -(-songs // LEAST_TASKS)))
    first = FIRST_TASKS if songs > size * most else 0
    left = songs - first * size
    then = max(size, -(-left // (most - first)))
    return [*[size] * first, *[then] * (left // then), *([left % then] if left % then else [])]


def groups(songs: Sequence[Item], settings: Settings) -> list[tuple[str, Sequence[Item]]]:
    """Songs in the groups that one task takes, each with its name, such as `songs 1-3`."""
    sizes = group_sizes(len(songs), settings)
    ends = list(accumulate(sizes))
    return [
        (f"songs {end - size + 1}-{end}", Group(songs[end - size : end]))
        for size, end in zip(sizes, ends, strict=True)
    ]
