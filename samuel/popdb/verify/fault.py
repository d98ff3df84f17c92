"""What is wrong with a dataset, and what it costs to mend it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMED = 8  # pairs named in a line


@dataclass(frozen=True)
class Fault:
    """One line of what `verify` says.

    Attributes:
        text: The culprit, what is wrong with it, and the remedy where there is a better one than repair.
        pairs: Pairs that cannot stay in the dataset.
        shards: Shards that cannot stay as they are.
        final: True where a repair cannot mend it.
    """

    text: str
    pairs: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()
    final: bool = False

    @property
    def line(self) -> str:
        """The text in one line that shows on any terminal as it is: much of it comes from the dataset."""
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self.text)


def pair_fault(text: str, rows: Collection[Mapping[str, Any]]) -> list[Fault]:
    """The fault that pairs share, which cannot stay for it; none where `rows`, of the index, is empty."""
    ids = frozenset(row["pair_id"] for row in rows)
    return [Fault(f"{text}: {listed(ids)}", ids)] if ids else []


def listed(names: Iterable[str]) -> str:
    """Names in their order, all of them where they are few."""
    some = sorted(names)
    more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return ", ".join(some[:NAMED]) + more
