"""Where a dataset lies: a folder of this machine, or what is behind a URL that fsspec knows.

Names are relative, with `/`. A file appears under its name whole or not at all. A dataset may come from
anywhere: no link in its folder is followed, and nothing but regular files is opened.
"""

import hashlib
import json
import logging
import os
import socket
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from samuel.artifacts import holding, locked, remove, replacing, sha256
from samuel.config import wrong_url
from samuel.errors import DatasetError, MissingPartError, OperatorError, SamuelError, SettingsError

logger = logging.getLogger(__name__)

SHARDS = "shards"
LOCK, URL_LOCK = ".lock", ".lock.json"
ABSENT = (FileNotFoundError, NotADirectoryError)


class Folder(ABC):
    """The files of a dataset, wherever they are."""

    location: str
    """The path or URL, for people."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[Any]:
        """Open a file to read its bytes."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Name → bytes of every file in the folder and in its folder of shards."""

    @abstractmethod
    def put(self, name: str, content: bytes, digest: str) -> None:
        """Have a file appear, in place of the one that has the name."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""

    @abstractmethod
    def fetch(self, name: str, digest: str) -> Path:
        """Path of this machine where a file that never changes can be read."""

    @abstractmethod
    def as_it_lies(self, name: str) -> AbstractContextManager[Path]:
        """Yield a path of this machine with the bytes that the file has where it lies, from no cache."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Be the one writer."""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """Read a small file; None where there is none.

        Raises:
            DatasetError: It has more than `most_bytes`, or is no regular file.
        """
        try:
            with self.open(name) as file:
                content = file.read(most_bytes + 1)
        except ABSENT:
            return None
        if len(content) > most_bytes:
            raise DatasetError(f"{self.location}: {name}: more than {most_bytes:,} bytes, which none has")
        return content

    def sha256(self, name: str) -> str | None:
        """Digest of the bytes that a file has where it lies; None where there is none."""
        try:
            with self.open(name) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except ABSENT:
            return None


def open_folder(location: Path | str, cache: Path | None = None) -> Folder:
    """Find the folder that a path or URL names; nothing is read yet.

    Args:
        location: A path, or a URL that fsspec knows: `memory://`, `s3://`, …
        cache: Where shards from a URL are kept on this machine; none: `samuel/shards` in the user's cache.

    Raises:
        SettingsError: The URL holds a password, or is a chain of several.
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    text = str(location)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if "://" not in text:
        return LocalFolder(Path(text).expanduser())
    if wrong := wrong_url(text):
        raise SettingsError(f"the place of a dataset is {wrong}")
    try:
        with _named_errors(text):
            filesystem, root = url_to_fs(text)
    except (ImportError, ValueError) as error:  # no package; no such protocol
        raise MissingPartError(f"{text}: {error}; give a local folder, or install what it needs") from error
    return UrlFolder(text, filesystem, root.rstrip("/"), cache or _user_cache())


def open_regular(path: Path) -> FileIO:
    """Open a file of this machine to read, unbuffered.

    Raises:
        DatasetError: A folder, a device or a pipe is in its place.
    """
    # Without waiting for somebody to write into a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DatasetError(f"{path}: not a regular file; remove it")
    return FileIO(descriptor)


@dataclass(frozen=True)
class LocalFolder(Folder):
    """A folder of this machine."""

    path: Path

    @property
    def location(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Its path."""
        return str(self.path)

    @contextmanager
    def open(self, name: str) -> Iterator[FileIO]:
        """Open a regular file to read."""
        with open_regular(self._own(name)) as file:
            yield file

    def sizes(self) -> dict[str, int]:
        """Name → bytes; links and folders are not counted."""
        sizes: dict[str, int] = {}
        for under in ("", SHARDS):
            with suppress(*ABSENT):
                for entry in os.scandir(self._own(under)):
                    with suppress(FileNotFoundError):  # removed by a writer since it was listed
                        if entry.is_file(follow_symlinks=False):
                            sizes[str(PurePosixPath(under, entry.name))] = entry.stat().st_size
        return sizes

    def put(self, name: str, content: bytes, digest: str) -> None:
        """Rename it into place, after its bytes are on the disk."""
        with replacing(self._own(name)) as temporary:
            temporary.write_bytes(content)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        remove(self._own(name) for name in names)

    def fetch(self, name: str, digest: str) -> Path:
        """The file's path."""
        return self._own(name)

    @contextmanager
    def as_it_lies(self, name: str) -> Iterator[Path]:
        """Yield the file's path."""
        yield self._own(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the dataset's lock, waiting for another writer."""
        self.path.mkdir(parents=True, exist_ok=True)
        # In the folder itself, whatever path leads to it, and whoever owns the one above it.
        with holding(self._own(LOCK), self._log_waiting):
            yield

    def _log_waiting(self) -> None:
        logger.warning("%s: another process is writing this dataset; waiting for it", self.path)

    def _own(self, name: str) -> Path:
        """The path of a name in this folder.

        Raises:
            DatasetError: A link would lead out of the folder.
        """
        path = self.path
        for part in PurePosixPath(name).parts:
            path /= part
            if path.is_symlink():
                raise DatasetError(f"{path}: a link; remove it, a dataset has none")
        return path


@dataclass(frozen=True)
class UrlFolder(Folder):
    """What is behind a URL; its shards are kept on this machine, under their digest."""

    location: str
    filesystem: AbstractFileSystem
    root: str
    cache: Path

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open an object to read."""
        with _named_errors(self.location), self.filesystem.open(f"{self.root}/{name}", "rb") as file:
            yield file

    def sizes(self) -> dict[str, int]:
        """Name → bytes, as the store says now."""
        self.filesystem.invalidate_cache()
        with _named_errors(self.location):
            # Not `ls`: where there is nothing, that of s3fs lists all that lies beside it.
            found = self.filesystem.find(self.root, maxdepth=2, detail=True)
        return {name.removeprefix(f"{self.root}/"): about["size"] for name, about in found.items()}

    def put(self, name: str, content: bytes, digest: str) -> None:
        """Upload it, and keep a shard."""
        with _named_errors(self.location):
            self.filesystem.pipe_file(f"{self.root}/{name}", content)
        if name.startswith(SHARDS):
            with replacing(self._kept(digest)) as temporary:
                temporary.write_bytes(content)

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects that may already be gone."""
        for name in names:
            with suppress(FileNotFoundError), _named_errors(self.location):
                self.filesystem.rm_file(f"{self.root}/{name}")

    def fetch(self, name: str, digest: str) -> Path:
        """Download the file unless it is kept already, and compare it with its digest.

        Raises:
            DatasetError: It is gone, or its bytes are others.
        """
        kept = self._kept(digest)
        with locked(kept):
            if kept.is_file() and sha256(kept) == digest:
                return kept
            with replacing(kept) as temporary:
                self._download(name, temporary)
                if sha256(temporary) != digest:
                    raise DatasetError(
                        f"{self.location}/{name}: its bytes are not those dataset.json names; {REMEDY}"
                    )
        return kept

    @contextmanager
    def as_it_lies(self, name: str) -> Iterator[Path]:
        """Download the file for the time being."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as folder:
            self._download(name, Path(folder) / "copy")
            yield Path(folder) / "copy"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the dataset's lock, or be refused where there is one.

        Raises:
            OperatorError: There is a writer, or one that was killed; the message names it.
        """
        mine = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
        try:
            with _named_errors(self.location):
                self.filesystem.pipe_file(f"{self.root}/{URL_LOCK}", mine, mode="create")
        except FileExistsError:
            holder = (self.read(URL_LOCK, 1000) or b"?").decode(errors="replace")
            raise OperatorError(
                f"{self.location}: being written by {holder}; wait, or delete {URL_LOCK} there if that "
                "process is gone"
            ) from None
        try:
            yield
        finally:
            self.remove([URL_LOCK])

    def _kept(self, digest: str) -> Path:
        return self.cache / f"{digest}.safetensors"

    def _download(self, name: str, target: Path) -> None:
        try:
            with _named_errors(self.location):
                self.filesystem.get_file(f"{self.root}/{name}", str(target))
        except FileNotFoundError:
            raise DatasetError(f"{self.location}/{name}: missing; {REMEDY}") from None


REMEDY = "open the dataset again where it was rewritten, or run samuel verify"


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    """Turn what a file system's own library raises, which has no name here, into one error.

    Raises:
        OperatorError: The file system cannot be used.
    """
    try:
        yield
    except (OSError, ImportError, ValueError, SamuelError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise OperatorError(f"{url}: {reason}; check the address and the credentials") from error


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "samuel" / "shards"
