"""Text that may be anybody's, on a terminal or in a pipe."""

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

GOES_ON = "what is done stays, and the same command goes on from there"
"""What is said of an interrupted command that keeps each song it has finished."""


def plain(text: str) -> str:
    """`text` without control characters, by which a title or a file name could steer the terminal.

    Lines stay lines.
    """
    return "\n".join(
        "".join(character if character.isprintable() else "?" for character in line)
        for line in text.split("\n")
    )


class PlainFormatter(logging.Formatter):
    """Messages without control characters: the names in them are anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and the trace of an error with it."""
        return plain(super().format(record))


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does, so that what is temporary is removed."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_what_it_can() -> None:
    """Have `?` printed for what the output's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def unread(probe: str = "") -> bool:
    """True where the output takes no more, as after `| head`; the rest of it is dropped then.

    Args:
        probe: What is written to find out; without it, output that has no buffer passes.
    """
    try:
        print(probe, end="", flush=True)
    except OSError:
        # The interpreter flushes again when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
