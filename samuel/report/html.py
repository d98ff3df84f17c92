"""Pages as Markdown, and as HTML files that open alone: pictures inside, players for audio beside them.

Templates (`*.md.j2`) write the Markdown. Any text that they put in is escaped, as it may be anybody's, unless
it is `Markdown` already. On a page, HTML in it stays text, and the page forbids itself scripts and network.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markdown_it.token import Token

from samuel.text import counted

NOT_MEASURED = "not measured"
NONE = "–"
JOINERS = "\u200c\u200d"  # of several scripts and of emoji: not printable, and yet harmless
HERE = Path(__file__).parent
STYLE = (HERE / "style.css").read_text("utf-8")
PICTURE = re.compile(r"[\w.-]+\.png", re.ASCII)
AUDIO = re.compile(r"audio/[\w-][\w.-]*/[\w-][\w.-]*\.flac", re.ASCII)
OPEN_TABLE = '<div class="scroll" role="region" tabindex="0" aria-label="table">\n<table>\n'
ASIDE = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")


class Markdown(str):
    """Text that is markup, or escaped already."""


def plain(value: object) -> Markdown:
    """A title as one line of Markdown, without markup and control characters; `Markdown` as it is."""
    if isinstance(value, Markdown):
        return value
    shown = (c if c.isprintable() or c in JOINERS else "?" for c in " ".join(str(value).split()))
    return Markdown("".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|~$&" else c for c in shown))


def bold(value: object, holds: bool) -> Markdown:
    """A value, escaped, in bold where something holds."""
    return Markdown(f"**{plain(value)}**") if holds else plain(value)


def bullets(lines: Iterable[str]) -> Markdown:
    """A list."""
    return Markdown("\n".join(f"- {line}" for line in lines))


def table(rows: Sequence[Mapping[str, object]], words: int = 1) -> Markdown:
    """Rows with the same columns, escaped; the first `words` are words on the left, the others numbers."""
    rule = ["---"] * words + ["--:"] * (len(rows[0]) - words)
    lines = [[*map(plain, rows[0])], rule, *([*map(plain, row.values())] for row in rows)]
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def enumerated(words: Iterable[object]) -> Markdown:
    """Words, escaped, as a sentence has them: "a, b and c"."""
    *before, last = [*map(plain, words)] or [Markdown()]
    return Markdown(f"{', '.join(before)} and {last}" if before else last)


def number(value: float | None, digits: int = 3, sign: str = "") -> Markdown:
    """A number with so many digits after the point."""
    return Markdown(NOT_MEASURED if value is None else f"{value:{sign}z.{digits}f}")


def interval(low: float | None, high: float | None, digits: int = 2, sign: str = "") -> Markdown:
    """An interval in brackets, with one digit more where it would look empty; nothing where there is none."""
    if low is None or high is None:
        return Markdown()
    if low < high and number(low, digits) == number(high, digits):
        digits += 1
    return Markdown(f"[{number(low, digits, sign)}, {number(high, digits, sign)}]")


def probability(p: float | None) -> str:
    """A p-value: four digits, as few tests have more to say."""
    return NOT_MEASURED if p is None else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


TEMPLATES = Environment(  # noqa: S701  (no HTML: `finalize` escapes for Markdown)
    loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True, finalize=plain
)
FUNCTIONS = (Markdown, bold, bullets, counted, enumerated, interval, number, plain, probability, table)
TEMPLATES.globals |= {function.__name__: function for function in FUNCTIONS} | {"NONE": NONE}


def render(template: str, values: dict[str, Any]) -> Markdown:
    """The text that a template of this folder makes of values, with single empty lines."""
    text = TEMPLATES.get_template(template).render(values)
    return Markdown(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def page(markdown: str, folder: Path, title: str) -> str:
    """Render CommonMark with tables as a page, with a section for each heading of the second level.

    Pictures that it names and that lie in `folder` are inside; a link to `audio/<system>/<track>.flac` is a
    player; any HTML in it is shown as text.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    body, links = [], []
    for place, part in enumerate(re.split(r"^(?=## )", markdown, flags=re.MULTILINE)):
        tokens = parser.parse(part)
        _for_a_page(tokens, folder)
        html = parser.renderer.render(tokens, parser.options, {})
        if place:
            heading = "".join(child.content for child in tokens[1].children or [])
            links.append(f'<a href="#part-{place}">{escape(heading)}</a>')
            html = f'<section id="part-{place}">\n{html}</section>'
        body.append(html)
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src 'self' file:; style-src 'sha256-{style}'; "
        "base-uri 'none'; form-action 'none'"
    )
    nav = f'<nav aria-label="sections">{"".join(links)}</nav>' if links else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
{nav}
<main>
{"".join(body)}
</main>
</html>
"""


def data_url(png: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"


def _for_a_page(tokens: Sequence[Token], folder: Path) -> None:
    """Put pictures inside, players in the place of links to audio, and what the style needs, into the tokens.

    A `style` is forbidden by the policy: columns of numbers get a class, and brackets in a cell small type.
    """
    cell = False
    for token in tokens:
        cell = (cell or token.type == "td_open") and token.type != "td_close"
        if token.type == "table_open":
            token.type, token.content = "html_block", OPEN_TABLE
        elif token.type == "table_close":
            token.type, token.content = "html_block", "</table></div>\n"
        elif token.attrs.pop("style", ""):
            token.attrSet("class", "number")
        parts = token.children or []
        for place, part in enumerate(parts):
            source = str(part.attrs.get("src") or part.attrs.get("href") or "")
            if part.type == "image" and PICTURE.fullmatch(source) and (folder / source).is_file():
                part.attrSet("src", data_url(folder / source))
            elif part.type == "link_open" and AUDIO.fullmatch(source):
                end = next(i for i in range(place, len(parts)) if parts[i].type == "link_close")
                caption = escape("".join(inner.content for inner in parts[place + 1 : end]))
                player = f'<audio controls preload="none" src="{source}" aria-label="{caption}"></audio>'
                part.type, part.content = "html_inline", "<figure><figcaption>"
                parts[end].type, parts[end].content = "html_inline", f"</figcaption>{player}</figure>"
            elif part.type == "text" and cell:
                small = ASIDE.sub(lambda found: f"<small>{found[0]}</small>", escape(part.content))
                part.type, part.content = "html_inline", small
