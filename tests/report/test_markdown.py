import pytest
from markdown_it import MarkdownIt

from samuel.report.html import (
    enumerated,
    interval,
    number,
    plain,
    probability,
    table,
)

HOSTILE = "a\n# b <i> | [x](y) $ ![p](q) **c** `d` ~e~ &amp; \\ \x1b[31m\u202e \udcff"


def test_a_hostile_title_is_no_markup() -> None:
    assert plain("a\n# b <i> | [x](y) $") == r"a \# b \<i\> \| \[x\]\(y\) \$"


@pytest.mark.parametrize("around", ["{}", "### {}", "- **{}**: said", "| h |\n|---|\n| {} |"])
def test_a_hostile_title_is_shown_as_it_is(around: str) -> None:
    """By another's parser of Markdown, with HTML allowed."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(around.format(plain(HOSTILE)))
    children = [child for token in tokens for child in token.children or []]
    shown = "".join(child.content for child in children if child.type == "text")
    assert "a # b <i> | [x](y) $ ![p](q) **c** `d` ~e~ &amp; \\ ?[31m? ?" in shown
    assert {child.type for child in children} <= {"text", "strong_open", "strong_close"}


def test_joiners_stay() -> None:
    assert plain("می\u200cخواهم") == "می\u200cخواهم"


def test_columns_of_numbers_stand_right() -> None:
    assert table(["a", "b", "c"], [["1", "2", "3"]], words=2).splitlines() == [
        "| a | b | c |", "| --- | --- | --: |", "| 1 | 2 | 3 |",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.58, 0.64, "[0.58, 0.64]"),
        (0.6112, 0.6124, "[0.611, 0.612]"),  # not [0.61, 0.61]
        (0.5, 0.5, "[0.50, 0.50]"),
        (None, 0.5, ""),
    ],
)
def test_an_interval_is_not_shown_as_empty(low: float | None, high: float | None, shown: str) -> None:
    assert interval(low, high) == shown


def test_numbers() -> None:
    assert number(None) == "not measured"
    assert number(-0.0001) == "0.000"
    assert number(0.25, 2, sign="+") == "+0.25"
    assert [probability(p) for p in (None, 0.0001, 0.0499, 1.0)] == [
        "not measured",
        "0.0001",
        "0.050",
        "1.000",
    ]
    assert [enumerated(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
