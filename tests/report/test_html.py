import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from samuel.report.html import Markdown, page, plain, table

PNG = b"\x89PNG of a kind"
HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> \"' [a](javascript:alert(1)) ![p](http://x/y.png)"
)
MARKED_UP = "a\n# b <i> | [x](y) $ ![p](q) **c** `d` ~e~ &amp; \\ \x1b[31m\u202e \udcff"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Elements(HTMLParser):
    """Every element with its attributes, and the text; that each is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plot.png").write_bytes(PNG)
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    return tmp_path


def of(markdown: str, folder: Path, title: str = "T") -> Elements:
    elements = Elements(page(markdown, folder, title))
    assert elements.open == []
    return elements


def test_pictures_are_inside_and_no_other_file(folder: Path) -> None:
    (image,) = of("![A plot](plot.png)", folder).all("img")
    assert image["src"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert image["alt"] == "A plot"
    for source in ("../secret.png", "gone.png", "http://x/plot.png"):
        (image,) = of(f"![p]({source})", folder).all("img")
        assert image["src"] == source


def test_links_to_audio_are_players_and_others_stay_links(folder: Path) -> None:
    elements = of("# T\n\n- [real \\(a\\)](audio/real/a-1.flac)\n- [SAMUeL](audio/samuel/a-1.flac)\n", folder)
    assert elements.all("audio") == [
        {"controls": None, "preload": "none", "src": f"audio/{name}/a-1.flac", "aria-label": label}
        for name, label in (("real", "real (a)"), ("samuel", "SAMUeL"))
    ]
    assert elements.all("a") == []
    assert "real (a)" in elements.text
    for target in ("http://x/audio/a/b.flac", "audio/../../b.flac", "audio/a/b.mp3", "audio/.a/b.flac"):
        elements = of(f"- [x]({target})", folder)
        assert elements.all("audio") == []
        assert elements.all("a") == [{"href": target}]


@pytest.mark.parametrize(
    "around", ["# {}", "## {}", "{}", "- **{}**", "| a |\n|--:|\n| {} |", "- [{}](audio/real/a.flac)"]
)
def test_a_hostile_name_is_text(around: str, folder: Path) -> None:
    elements = of(around.format(plain(HOSTILE)), folder, HOSTILE)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "img", "iframe"}
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert HOSTILE in "".join(elements.text)
    assert not [a for a in elements.all("a") if not (a["href"] or "").startswith("#")]


@pytest.mark.parametrize("around", ["{}", "### {}", "- **{}**: said", "| h |\n|---|\n| {} |"])
def test_markup_in_a_name_is_shown_as_it_is(around: str) -> None:
    """By another's parser of Markdown, with HTML allowed."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(around.format(plain(MARKED_UP)))
    children = [child for token in tokens for child in token.children or []]
    shown = "".join(child.content for child in children if child.type == "text")
    assert "a # b <i> | [x](y) $ ![p](q) **c** `d` ~e~ &amp; \\ ?[31m? ?" in shown
    assert {child.type for child in children} <= {"text", "strong_open", "strong_close"}
    assert plain("می\u200cخواهم") == "می\u200cخواهم"  # joiners stay


def test_tables_scroll_and_numbers_stand_right(folder: Path) -> None:
    text = table([{"a": "x", "b": Markdown("1.0 [0.9, 1.1] (n = 3)")}])
    assert table([{"<b>": "|"}]) == "| \\<b\\> |\n| --- |\n| \\| |"
    assert text.splitlines()[1] == "| --- | --: |"
    elements = of(f"{text}\n\n(no aside)", folder)
    assert [div["class"] for div in elements.all("div")] == ["scroll"]
    assert elements.all("th") == elements.all("td") == [{}, {"class": "number"}]
    assert len(elements.all("small")) == 2
    assert "".join(elements.text).count("1.0 [0.9, 1.1] (n = 3)") == 1


def test_the_policy_lets_in_the_pages_own_style_alone(folder: Path) -> None:
    text = page("# T", folder, "T")
    elements = Elements(text)
    policy = next(m["content"] or "" for m in elements.all("meta") if m.get("http-equiv"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not any("style" in attributes for _, attributes in elements.found)
