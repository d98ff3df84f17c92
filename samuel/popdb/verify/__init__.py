"""Is a dataset what it says it is?

dataset.json   its format, and that every file it names has the size and the digest it names; its counts
the tables     that they agree with each other, and that no name in them leads out of the folder
shards         digests, headers, and for each pair that both its tensors are those that were written together
               and hold numbers only
the split      that no song, recording, audio file or pair is on both sides
stats.json     recomputed over all training pairs, not over a sample: every shard is read anyway, and counting
               all of them needs no tolerance beyond rounding

A dataset may come from anywhere: whatever is in it gives a line, not an exception.
"""

from pathlib import Path

from samuel.popdb.shards.remote import folder_of
from samuel.popdb.verify.examination import examine


def verify(location: Path | str, cache: Path | None = None) -> list[str]:
    """Every fault of the dataset at a path or URL, one line each; an empty list for a sound one.

    Nothing is written, and no lock is taken: what another process is writing at the time may be named as
    left over. A dataset that cannot be opened at all gives one line.

    Args:
        location: A folder, or a URL that fsspec knows.
        cache: Not read: what is checked is what lies at the URL.

    Raises:
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    return examine(folder_of(location, cache)).lines
