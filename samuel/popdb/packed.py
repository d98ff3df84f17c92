"""Rows kept small: a run over a long list has the candidates of all its songs in memory."""

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, overload

Row = dict[str, Any]


class Packed(Sequence[Row]):
    """Rows that JSON can hold, unpacked whenever they are looked at; a tenth of the rows as objects.

    Args:
        rows: Read once.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._content = zlib.compress(json.dumps(list(rows)).encode(), 1)

    def rows(self) -> list[Row]:
        """All of them; cheaper than one after the other."""
        return json.loads(zlib.decompress(self._content))

    def __len__(self) -> int:
        return len(self.rows())

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        """A row, or several."""
        return self.rows()[place]
