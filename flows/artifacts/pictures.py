"""Pictures inside Markdown, as the UI has no other place for them."""

import re
from pathlib import Path

from PIL import Image

from samuel.report.html import data_url

IMAGE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")
COLOURS = 32


def with_pictures(text: str, folder: Path) -> str:
    """Markdown with the pictures that it names, which lie in `folder`, inside it."""
    return IMAGE.sub(lambda found: f"![{found[1]}]({data_url(folder / found[2])})", text)


def reduce_colours(png: Path) -> None:
    """Make a plot a quarter of its size: the server's database keeps every one that is shown."""
    Image.open(png).convert("RGB").quantize(COLOURS).save(png, optimize=True)
