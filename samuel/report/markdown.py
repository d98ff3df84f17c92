"""Markdown out of text that may be anybody's, and out of numbers."""

from collections.abc import Iterable, Sequence

NOT_MEASURED = "not measured"
NONE = "–"
JOINERS = "\u200c\u200d"
"""Of several scripts and of emoji: not printable, and yet harmless."""


def plain(text: str) -> str:
    """A title as one line of Markdown that cannot be mistaken for markup.

    Without control characters and marks that turn the direction of writing.
    """
    line = " ".join(text.split())
    shown = (c if c.isprintable() or c in JOINERS else "?" for c in line)
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|~$&" else c for c in shown)


def section(*parts: str) -> str:
    """Parts of a section, those that are there, with an empty line between them."""
    return "\n\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose first `words` columns are words, on the left; the others are numbers, on the right."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def enumerated(words: Sequence[str]) -> str:
    """Words as a sentence has them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number with so many digits after the point."""
    return NOT_MEASURED if value is None else f"{value:{sign}z.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 2, sign: str = "") -> str:
    """An interval in brackets, with one digit more where it would look empty; nothing where there is none."""
    if low is None or high is None:
        return ""
    if low < high and number(low, digits) == number(high, digits):
        digits += 1
    return f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def probability(p: float | None) -> str:
    """A p-value: four digits, as few tests have more to say."""
    if p is None:
        return NOT_MEASURED
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"
