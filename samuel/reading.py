"""The doors: files that may come from a stranger are read through these, or a part's own schema behind them.

Nothing but regular files is opened, sizes are looked at before memory is taken, and what is wrong is an
InputError of one line. JSON has bounds on nesting and numbers; a safetensors file fits its header.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from samuel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON_BYTES, MAX_LINES_BYTES = 2**24, 2**27
MAX_HEADER_BYTES = 2**22  # of safetensors: some 40,000 tensors


def open_regular(path: Path) -> FileIO:
    """Open a file to read, unbuffered; a link, a folder, a device or a pipe is not even opened."""
    if not S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path}: not a regular file; remove it")
    return FileIO(path)


def read_bounded(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Read a small file, see `open_regular`, of at most `max_bytes`."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise InputError(f"{path}: over {max_bytes:,} bytes, which none has")
        return file.readall()


def parse_json(content: bytes, path: object) -> Any:
    """The value of JSON, whose nesting and numbers have bounds, read from `path`."""
    try:
        return from_json(content)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error


def read_json(path: Path) -> Any:
    """Read a JSON file, see `read_bounded`."""
    return parse_json(read_bounded(path), path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file of objects; a last line cut short by a kill is left out."""
    lines = read_bounded(path, MAX_LINES_BYTES).split(b"\n") if path.exists() else []
    rows = [parse_json(line, path) for line in lines[:-1] if line]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a line that is no JSON object")
    return rows


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for torch, whose offsets fit its shapes and its size."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8) or b"", "little")
    if length > MAX_HEADER_BYTES:
        raise InputError(f"{path}: not safetensors (a header of {length:,} bytes)")
    try:
        with safe_open(path, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise InputError(f"{path}: not safetensors ({error})") from error


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Every tensor of a safetensors file, on the CPU; see `open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
