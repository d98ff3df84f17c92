"""Files behind an fsspec URL, or in a folder that machines share: listed, read, put, fetched, removed."""

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from samuel.config.popdb import wrong_url
from samuel.errors import MissingPartError, OperatorError, SamuelError, SettingsError
from samuel.files import full_disk_told, replacing

Answer = TypeVar("Answer")

# A cloud's own file system has tried again by itself before it raises; others have not.
PASSING = (ConnectionError, TimeoutError)
PAUSES_S = (0.5, 2.0, 8.0)

logger = logging.getLogger(__name__)


def bucket_of(location: str) -> "Bucket":
    """The files that a path or URL stands for; nothing is asked of it yet.

    Raises:
        SettingsError: The URL holds a password, or is a chain of several.
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    if wrong := wrong_url(location):
        raise SettingsError(f"the store is {wrong}")
    try:
        filesystem, root = url_to_fs(location)
    except (ImportError, ValueError) as error:  # no package; no such protocol
        raise MissingPartError(f"{location}: {error}; give a folder, or install what it needs") from error
    except Exception as error:
        raise _told(location, error) from error
    return Bucket(location, filesystem, root.rstrip("/"))


@dataclass(frozen=True)
class Bucket:
    """Files by relative names with `/`; the file system's own configuration holds the credentials.

    What fails by the network is tried again, with growing pauses. What fails all the same, or by anything
    else, is an OperatorError of each method.
    """

    url: str
    filesystem: Any
    root: str

    def sizes(self, under: str) -> dict[str, int]:
        """Name, relative to `under` → bytes of every file below it."""
        # By walking folders most file systems would take one that they cannot read for an empty one.
        walks = type(self.filesystem).find is AbstractFileSystem.find
        options = {"on_error": "raise"} if walks else {}
        top = f"{self.root}/{under}"

        def ask() -> dict[str, Any]:
            self.filesystem.invalidate_cache()
            # Not `ls`: where there is nothing, that of s3fs lists all that lies beside it.
            return self.filesystem.find(top, detail=True, **options)

        try:
            found = self._asked(ask)
        except FileNotFoundError:
            return {}
        return {name[len(top) :].lstrip("/"): about["size"] for name, about in found.items()}

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none."""
        try:
            return self._asked(lambda: self.filesystem.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def put(self, source: Path, name: str) -> None:
        """Copy a file there, over the one that has the name."""
        target = f"{self.root}/{name}"
        if isinstance(self.filesystem, LocalFileSystem):  # which would show a file that is not whole yet
            self._written(lambda: _copy(source, Path(target)))
        else:
            self._written(lambda: self.filesystem.put_file(str(source), target))

    def write(self, content: bytes, name: str) -> None:
        """Have a small file with this content there."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self.put(Path(file.name), name)

    def get(self, name: str, target: Path) -> bool:
        """Copy a file here; False where there is none."""

        def ask() -> None:
            with full_disk_told(target.parent, "free some space, and start the run again"):
                self.filesystem.get_file(f"{self.root}/{name}", str(target))

        try:
            self._asked(ask)
        except FileNotFoundError:
            return False
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        for name in names:
            try:
                self._asked(lambda name=name: self.filesystem.rm_file(f"{self.root}/{name}"))
            except FileNotFoundError:
                continue

    def _written(self, ask: Callable[[], object]) -> None:
        try:
            self._asked(ask)
        except FileNotFoundError as error:  # what cannot be written into is not merely empty
            raise _told(self.url, error) from error

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        for pause_s in PAUSES_S:
            try:
                return self._asked_once(ask)
            except PASSING as error:
                logger.warning("%s: %s; again in %g s", self.url, _reason(error), pause_s)
                time.sleep(pause_s)
        try:
            return self._asked_once(ask)
        except PASSING as error:
            raise _told(self.url, error) from error

    def _asked_once(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except (FileNotFoundError, SamuelError, *PASSING):
            raise
        except Exception as error:
            raise _told(self.url, error) from error


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _told(url: str, error: Exception) -> OperatorError:
    return OperatorError(
        f"the store {url} cannot be used ({_reason(error)}); check settings.store, the network, the "
        "credentials and the room there, then start the run again. What was done stays"
    )


def _reason(error: Exception) -> str:
    # An address in an error may be signed: what follows the question mark then opens the door.
    unsigned = re.sub(r"[?]\S*", "?…", str(error))
    return f"{type(error).__name__}: {unsigned}"
