"""Text that may be anybody's, on a terminal or in a pipe."""

import io
import os
import sys

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
