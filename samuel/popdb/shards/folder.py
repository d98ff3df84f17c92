"""Where the files of a dataset lie: what it needs of a folder, and a folder of this machine.

A file appears under its name only when it is whole. Names are relative, with `/`.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from samuel.errors import DatasetError
from samuel.files import fsync, full_disk_told, holding, remove

PENDING = ".pending"
LOCK = ".lock"

logger = logging.getLogger(__name__)


class Folder(Protocol):
    """What a dataset needs of the place where it lies."""

    @property
    def location(self) -> str:
        """The path or URL, for people."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        ...

    def sizes(self, under: str) -> dict[str, int]:
        """Name → bytes of the files in a folder below."""
        ...

    def put(self, source: Path, name: str, digest: str) -> None:
        """Make a finished file of `workspace` appear as `name`; the source is gone afterwards."""
        ...

    def move(self, name: str, to: str) -> None:
        """Give a file another name, in the place of the file that had it."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        ...

    def at_hand(self, name: str, digest: str) -> Path:
        """A path of this machine where a file that never changes can be read."""
        ...

    @property
    def workspace(self) -> Path:
        """A folder of this machine in which files are made that are then put."""
        ...

    def locked(self) -> Any:
        """A context that one writer at a time is in."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine."""

    path: Path

    @property
    def location(self) -> str:
        """Its path."""
        return str(self.path)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, under: str) -> dict[str, int]:
        """Name → bytes of the files in a folder below."""
        try:
            entries = list(os.scandir(self.path / under))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        sizes: dict[str, int] = {}
        for entry in entries:
            with suppress(FileNotFoundError):  # moved by a writer since it was listed
                if entry.is_file():
                    sizes[f"{under}/{entry.name}"] = entry.stat().st_size
        return sizes

    def put(self, source: Path, name: str, digest: str) -> None:
        """Make a finished file of `workspace` appear as `name`."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync(source)
        source.replace(target)
        fsync(target.parent)

    def move(self, name: str, to: str) -> None:
        """Rename a file, over the one that had the name."""
        (self.path / name).replace(self.path / to)
        fsync(self.path)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        remove(self.path / name for name in names)

    def at_hand(self, name: str, digest: str) -> Path:
        """The file's path."""
        return self.path / name

    @property
    def workspace(self) -> Path:
        """`.work` in the folder itself, from where a file can be renamed into place."""
        return self.path / ".work"

    def _say_so(self) -> None:
        logger.warning("%s: another process is writing this dataset; waiting for it", self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; another waits, and says so.

        Raises:
            DatasetError: A link is where the writer's own folders are: what it leads to is not the dataset's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # In the folder itself, whatever path leads to it, and whoever owns the one above it.
        with holding(self.path / LOCK, self._say_so):
            for own in (self.workspace, self.path / PENDING):
                if own.is_symlink():
                    raise DatasetError(f"{own}: a link; remove it, a dataset has none there")
            shutil.rmtree(self.workspace, ignore_errors=True)  # of a writer that was killed
            try:
                yield
            finally:
                shutil.rmtree(self.workspace, ignore_errors=True)
                with suppress(OSError):  # not there, or not empty
                    (self.path / PENDING).rmdir()


def disk_full_told(folder: Folder) -> AbstractContextManager[None]:
    """Turn a full disk into what a person can act on.

    Raises:
        OperatorError: No space is left where the dataset is written.
    """
    return full_disk_told(
        folder.location, "the dataset there is as it was. Free some space, and run it again"
    )
