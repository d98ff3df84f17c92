"""A report as one HTML file that opens alone in a browser: pictures inside, players for audio beside it.

The text may hold anybody's names. HTML in it stays text, and the page forbids itself scripts and the network.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

# How a page looks: on light and on dark, on wide screens and narrow ones, and on paper.


STYLE = """
:root {
  color-scheme: light dark;
  --text: #1c2330; --quiet: #5d6779; --page: #f5f6f9; --card: #ffffff; --line: #e1e5ec; --stripe: #f8f9fb;
  --accent: #2f5fd0; --soft: #eaf0fe; --shadow: 0 1px 2px rgb(20 30 60 / 6%), 0 6px 24px rgb(20 30 60 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e4e8f0; --quiet: #98a2b5; --page: #11141a; --card: #191d26; --line: #2b313e; --stripe: #1d222c;
    --accent: #8db0ff; --soft: #1e2a45; --shadow: none;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
nav {
  position: sticky; top: 0; z-index: 1; display: flex; gap: .25rem; overflow-x: auto; padding: .6rem 1rem;
  background: var(--card); border-bottom: 1px solid var(--line);
}
@media (min-width: 78rem) { nav { padding-inline: calc((100vw - 74rem) / 2); } }
nav a {
  flex: none; padding: .2rem .7rem; border-radius: 999px; color: var(--quiet); font-size: .875rem;
  text-decoration: none;
}
nav a:hover, nav a:focus-visible { background: var(--soft); color: var(--accent); }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1rem 5rem; }
h1, h2, h3 { line-height: 1.25; letter-spacing: -.01em; text-wrap: balance; }
h1 { margin: 0 0 .75rem; font-size: clamp(1.75rem, 4vw, 2.4rem); letter-spacing: -.02em; }
h2 { margin: 0 0 1rem; font-size: 1.4rem; }
h3 { margin: 0 0 .75rem; font-size: 1.08rem; }
p, li { max-width: 78ch; }
p { margin: 0 0 1rem; text-wrap: pretty; }
p:has(> img) { max-width: none; }
a { color: var(--accent); }
.level-2 {
  margin-top: 1.5rem; padding: clamp(1rem, 3vw, 1.9rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shadow);
}
.level-2 > :last-child { margin-bottom: 0; }
.level-3 { margin-top: 1.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.level-1 > .level-2:first-of-type { border-left: 5px solid var(--accent); }
ul { margin: 0 0 1rem; padding-left: 1.2rem; }
li { margin: .25rem 0; }
li::marker { color: var(--quiet); }
code {
  padding: .1em .35em; border-radius: 5px; background: var(--soft);
  font: .86em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
img {
  display: block; max-width: 100%; height: auto; margin: .25rem auto; padding: .5rem; border-radius: 10px;
  background: #fff; border: 1px solid var(--line);
}
.scroll {
  margin: 0 0 1rem; width: fit-content; max-width: 100%; overflow-x: auto; border: 1px solid var(--line);
  border-radius: 10px;
}
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--stripe); color: var(--quiet); font-weight: 600; vertical-align: bottom; }
th, td { overflow-wrap: break-word; min-width: 4.5rem; max-width: 24rem; }
td:first-child, th:first-child { min-width: 9rem; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--stripe); }
.number { text-align: right; }
td.number { white-space: nowrap; }
small { color: var(--quiet); font-size: .86em; }
.players {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .75rem;
  padding: 0; list-style: none;
}
.players li { margin: 0; max-width: none; }
figure {
  margin: 0; padding: .6rem .7rem .7rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--stripe);
}
figcaption { margin-bottom: .35rem; font-size: .875rem; font-weight: 600; }
audio { display: block; width: 100%; height: 40px; }
@media print {
  nav, audio { display: none; }
  body, .level-2 { background: none; box-shadow: none; }
  .level-2 { break-inside: avoid-page; border: 0; padding: 0; }
  .scroll { overflow: visible; }
}
"""


# Markdown out of text that may be anybody's, and out of numbers.


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
