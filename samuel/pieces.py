"""The finished pieces of songs (entries of `samuel.files`), wherever they lie: here, in the data folder."""

from collections.abc import Iterator
from pathlib import Path

from samuel.errors import OperatorError
from samuel.files import Entry, find_entry, forget, release


class Pieces:
    """The finished pieces of songs in the data folder, and nowhere else."""

    def find(self, folder: Path) -> Entry | None:
        """The entry that belongs at `folder`; its files may still lie in the store."""
        return find_entry(folder)

    def all(self, stage: Path) -> Iterator[Entry]:
        """Every entry that belongs into the folder of a stage."""
        return (entry for folder in stage.glob("[!.]*/") if (entry := find_entry(folder)))

    def at_hand(self, entry: Entry) -> Entry:
        """The entry with its files on this machine.

        Raises:
            OperatorError: They are gone.
        """
        for name in entry.sha256:
            if not entry.path(name).is_file():
                raise OperatorError(
                    f"{entry.path(name)}: removed since this run saw it, as by one with other settings of "
                    "retention; start this one again"
                )
        return entry

    def publish(self, folder: Path) -> None:
        """Have others find the entry that was made at `folder`."""

    def publish_failure(self, folder: Path) -> None:
        """Have others know how making the entry at `folder` failed."""

    def release(self, folder: Path) -> None:
        """Remove the entry's files and keep what it says of them, everywhere."""
        release(folder)

    def forget(self, folder: Path) -> None:
        """Have a released entry made again by the next who asks for it."""
        forget(folder)


HERE = Pieces()
