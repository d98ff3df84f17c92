"""Is anything of the validation pairs among the training pairs?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from samuel.popdb.shards.index import Row
from samuel.popdb.verify.fault import Fault, listed


def leakage_faults(index: Sequence[Row], songs: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """What is on both sides of the split: a song, a recording, an audio file, the latents of a pair.

    The pairs at fault are those of the validation split; each is named once.
    """
    by_id = {song["song_id"]: song for song in songs}

    def of_song(column: str) -> Callable[[Row], Any]:
        return lambda row: by_id.get(row["song_id"], {}).get(column)

    kinds: dict[str, Callable[[Row], Any]] = {
        "song": lambda row: row["song_id"],
        "recording": of_song("recording"),
        "audio file": of_song("audio_sha256"),
        # Silence is the same in all songs, and gives nothing away.
        "the latents": lambda row: None if row["mix_peak"] == 0.0 else row["pair_sha256"],
    }
    faults: list[Fault] = []
    named: set[str] = set()
    for kind, value_of in kinds.items():
        for value, held in _on_both_sides(index, value_of):
            if ids := held - named:
                named |= ids
                faults.append(Fault(f"split: {kind} {value} in training and validation: {listed(ids)}", ids))
    return faults


def _on_both_sides(
    index: Sequence[Row], value_of: Callable[[Row], Any]
) -> Iterator[tuple[Any, frozenset[str]]]:
    """Each value that both sides have, with its validation pairs."""
    sides: dict[str, dict[Any, set[str]]] = {"train": {}, "validation": {}}
    for row in index:
        if (value := value_of(row)) and row["split"] in sides:
            sides[row["split"]].setdefault(value, set()).add(row["pair_id"])
    for value, held in sides["validation"].items():
        if value in sides["train"]:
            yield value, frozenset(held)
