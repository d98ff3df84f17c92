"""A report as one HTML file that opens alone in a browser: pictures inside, players for audio beside it.

The text may hold anybody's names. HTML in it stays text, and the page forbids itself scripts and the network.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from samuel.report.style import STYLE

PICTURE = re.compile(r"[\w.-]+\.png", re.ASCII)
AUDIO = re.compile(r"audio/[\w-][\w.-]*/[\w-][\w.-]*\.flac", re.ASCII)
ASIDE = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")
POLICY = (
    "default-src 'none'; img-src data:; media-src 'self' file:; style-src 'sha256-{style}'; base-uri 'none'; "
    "form-action 'none'"
)


def page(markdown: str, folder: Path, title: str) -> str:
    """A whole page.

    Its sections are those of the headings. Pictures that the text names and that lie in `folder` are inside;
    a link to `audio/<system>/<track>.flac` becomes a player.

    Args:
        markdown: CommonMark with tables. Any HTML in it is shown as text.
        folder: Where the pictures lie.
        title: Of the browser's tab.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        _make_fit(token, folder)
    named = list(_sectioned(_with_players(tokens)))
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
        _contents(named),
        f"<main>\n{parser.renderer.render(named, parser.options, {})}</main>",
        "</html>\n",
    ])  # fmt: skip


def data_url(png: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"


def _make_fit(token: Token, folder: Path) -> None:
    """Put pictures inside, let wide tables scroll, and give classes for styles, which the policy forbids."""
    if token.type in {"th_open", "td_open"} and token.attrs.pop("style", ""):
        token.attrSet("class", "number")
    for child in token.children or []:
        name = str(child.attrs.get("src", ""))
        if child.type == "image" and PICTURE.fullmatch(name) and (folder / name).is_file():
            child.attrSet("src", data_url(folder / name))


def _with_players(tokens: list[Token]) -> Iterator[Token]:
    """Tokens with players in place of links to audio, a grid for lists of them, and what tables scroll in."""
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            yield _html('<div class="scroll" role="region" tabindex="0" aria-label="table">')
        if token.type == "bullet_list_open" and _holds_audio(tokens[place : place + 4]):
            token.attrSet("class", "players")
        if token.type == "inline":
            in_cell = tokens[place - 1].type == "td_open"
            token.children = list(_inline(token.children or [], in_cell=in_cell))
        yield token
        if token.type == "table_close":
            yield _html("</div>")


def _holds_audio(tokens: list[Token]) -> bool:
    links = (child for token in tokens for child in token.children or [] if child.type == "link_open")
    return any(AUDIO.fullmatch(str(link.attrs.get("href", ""))) for link in links)


def _inline(children: list[Token], *, in_cell: bool) -> Iterator[Token]:
    """What a line holds: links to audio as players, and in a table what stands in brackets in small type."""
    caption: list[str] | None = None
    source = ""
    for child in children:
        href = str(child.attrs.get("href", ""))
        if child.type == "link_open" and AUDIO.fullmatch(href):
            caption, source = [], href
        elif caption is not None and child.type == "link_close":
            yield _player("".join(caption), source)
            caption = None
        elif caption is not None:
            caption.append(child.content)
        elif in_cell and child.type == "text":
            yield _html(
                ASIDE.sub(lambda found: f"<small>{found[0]}</small>", escape(child.content)), "html_inline"
            )
        else:
            yield child


def _player(caption: str, source: str) -> Token:
    name, file = escape(caption), escape(source)
    return _html(
        f'<figure><figcaption>{name}</figcaption><audio controls preload="none" src="{file}" '
        f'aria-label="{name}"></audio></figure>',
        "html_inline",
    )


def _sectioned(tokens: Iterator[Token]) -> Iterator[Token]:
    """Tokens with a section around what belongs to each heading, which gets an address of its own."""
    levels: list[int] = []
    count = 0
    for token in tokens:
        if token.type == "heading_open" and token.level == 0:
            level = int(token.tag[1])
            while levels and levels[-1] >= level:
                levels.pop()
                yield _html("</section>")
            levels.append(level)
            count += 1
            yield _html(f'<section class="level-{level}" id="part-{count}">')
        yield token
    yield from (_html("</section>") for _ in levels)


def _contents(tokens: list[Token]) -> str:
    """Links to the sections of the second level."""
    links = [
        f'<a href="#{_address(tokens[place - 1])}">{escape(_text(tokens[place + 1]))}</a>'
        for place, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag == "h2" and token.level == 0
    ]
    return f'<nav aria-label="sections">{"".join(links)}</nav>' if links else ""


def _address(opening: Token) -> str:
    return opening.content.split('id="')[1].split('"')[0]


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


def _html(content: str, kind: str = "html_block") -> Token:
    """Markup of ours; the parser makes no such tokens."""
    return Token(kind, "", 0, content=content if kind == "html_inline" else f"{content}\n")
