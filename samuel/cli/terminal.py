"""Text that may be anybody's, on a terminal."""


def plain(text: str) -> str:
    """`text` without control characters, by which a title or a file name could steer the terminal.

    Lines stay lines.
    """
    return "\n".join(
        "".join(character if character.isprintable() else "?" for character in line)
        for line in text.split("\n")
    )
