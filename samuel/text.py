"""Numbers, tables and remedies as text for people."""

from collections.abc import Mapping, Sequence

DISTRIBUTION = "samuel-accompaniment"  # plain `samuel` is a stranger's on the public index


def text_of(rows: Sequence[Mapping[str, str | int]]) -> str:
    """Rows with the same columns as text, numbers to the right."""
    lines = [list(rows[0])] + [[f"{v:,}" if isinstance(v, int) else v for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if isinstance(value, int) else "<" for value in rows[0].values()]
    columns = list(zip(sides, widths, strict=True))
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, (side, width) in zip(line, columns, strict=True)).rstrip()
        for line in lines
    )


def counted(count: int, noun: str) -> str:
    """A count for people: 1 pair, 2,000 pairs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """A duration for people: 47 h, 12 min, 8 s."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def install_extra(extra: str) -> str:
    """How to install what is not there by default."""
    return f"pip install '{DISTRIBUTION}[{extra}]', or in a checkout: uv pip install '.[{extra}]'"
