"""A report as one HTML file that opens alone in a browser: pictures inside, players for audio beside it.

A page is written as Markdown, whose pieces the first functions make. The text may hold anybody's names: HTML
in it stays text, and the page forbids itself scripts and the network.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

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


def counted(count: int, noun: str) -> str:
    """A number of things: "1 track", "2 tracks"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


STYLE = Path(__file__).with_name("style.css").read_text("utf-8")
PICTURE = re.compile(r"[\w.-]+\.png", re.ASCII)
AUDIO = re.compile(r"audio/[\w-][\w.-]*/[\w-][\w.-]*\.flac", re.ASCII)
ASIDE = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")
POLICY = (
    "default-src 'none'; img-src data:; media-src 'self' file:; style-src 'sha256-{style}'; base-uri 'none'; "
    "form-action 'none'"
)


def page(markdown: str, folder: Path, title: str) -> str:
    """Render a whole page, with a section for each heading of the second level.

    Pictures that the text names and that lie in `folder` are inside; a link to `audio/<system>/<track>.flac`
    becomes a player.

    Args:
        markdown: CommonMark with tables. Any HTML in it is shown as text.
        folder: Where the pictures lie.
        title: Of the browser's tab.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    renderer = _PageRenderer(folder)
    head, *parts = re.split(r"^(?=## )", markdown, flags=re.MULTILINE)
    body, links = [renderer.render(parser.parse(head), parser.options, {})], []
    for place, part in enumerate(parts):
        tokens = parser.parse(part)
        heading = "".join(child.content for child in tokens[1].children or [])
        links.append(f'<a href="#part-{place}">{escape(heading)}</a>')
        html = renderer.render(tokens, parser.options, {})
        body.append(f'<section id="part-{place}">\n{html}</section>')
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return "\n".join([
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(style=style)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<nav aria-label="sections">{"".join(links)}</nav>' if links else "",
        "<main>", *body, "</main>",
        "</html>\n",
    ])  # fmt: skip


def data_url(png: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"


class _PageRenderer(RendererHTML):
    """The renderer of markdown-it, in which each method below renders the tokens of its name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.in_cell, self.player = folder, False, ""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A picture of the folder inside the page."""
        name = str(tokens[idx].attrs["src"])
        if PICTURE.fullmatch(name) and (self.folder / name).is_file():
            tokens[idx].attrSet("src", data_url(self.folder / name))
        return super().image(tokens, idx, options, env)

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A link to audio is a player, captioned with the link's words."""
        source = str(tokens[idx].attrs["href"])
        if not AUDIO.fullmatch(source):
            return self.renderToken(tokens, idx, options, env)
        end = next(place for place in range(idx, len(tokens)) if tokens[place].type == "link_close")
        caption = escape("".join(token.content for token in tokens[idx + 1 : end]))
        self.player = (
            f'</figcaption><audio controls preload="none" src="{escape(source)}" '
            f'aria-label="{caption}"></audio></figure>'
        )
        return "<figure><figcaption>"

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """The end of a link or of a player's caption."""
        player, self.player = self.player, ""
        return player or self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A table that scrolls where it is wider than the screen."""
        table = self.renderToken(tokens, idx, options, env)
        return f'<div class="scroll" role="region" tabindex="0" aria-label="table">\n{table}'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """The end of what scrolls."""
        return f"{self.renderToken(tokens, idx, options, env)}</div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A cell, with a class for columns of numbers instead of a style, which the policy forbids."""
        self.in_cell = tokens[idx].type == "td_open"
        if tokens[idx].attrs.pop("style", ""):
            tokens[idx].attrSet("class", "number")
        return self.renderToken(tokens, idx, options, env)

    td_open = th_open

    def td_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """The end of a cell."""
        self.in_cell = False
        return self.renderToken(tokens, idx, options, env)

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Escaped text; what stands in brackets in a cell is in small type."""
        text = super().text(tokens, idx, options, env)
        return ASIDE.sub(lambda found: f"<small>{found[0]}</small>", text) if self.in_cell else text
