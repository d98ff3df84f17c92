"""Where a dataset lies: a folder of this machine, or what is behind a URL that fsspec knows.

Names are relative, with `/`. A file appears under its name whole or not at all. A dataset may come from
anywhere: no link in its folder is followed, and nothing but regular files is opened.
"""

import hashlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from samuel.artifacts import RemoteFolder, locked, replacing, sha256
from samuel.errors import DatasetError, InputError, OperatorError
from samuel.reading import open_regular, read_bounded

logger = logging.getLogger(__name__)

SHARDS, MOST_SHARD_BYTES = "shards", 2**31
LOCK, URL_LOCK = ".lock", ".lock.json"
ABSENT = (FileNotFoundError, NotADirectoryError)
REMEDY = "open the dataset again where it was rewritten, or run samuel verify"


def open_folder(location: Path | str, cache: Path | None = None) -> "Folder":
    """Find the folder that a path or a URL of fsspec names; nothing is read yet.

    Shards from a URL are kept in `cache` on this machine; none: `samuel/shards` in the user's cache. A
    SettingsError where the URL holds a password, a MissingPartError where its protocol needs a package.
    """
    text = str(location)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if "://" not in text:
        return Folder(Path(text).expanduser())
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return UrlFolder(text, cache or Path(base) / "samuel" / "shards")


@contextmanager
def of_dataset() -> Iterator[None]:
    """Turn what is wrong with a file, an InputError, into a DatasetError."""
    try:
        yield
    except InputError as error:
        raise DatasetError(str(error)) from error


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.location, self.path = str(path), path  # for people; where its files can be read

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """Read a small file; None where there is none, a DatasetError where it has more than `most_bytes`."""
        with suppress(*ABSENT), of_dataset():
            return read_bounded(self._own(name), most_bytes)
        return None

    def sha256(self, name: str) -> str | None:
        """Digest of the bytes that a file has where it lies; None where there is none."""
        with suppress(*ABSENT), of_dataset(), self.as_it_lies(name) as path, open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
        return None

    def sizes(self) -> dict[str, int]:
        """Name → bytes of every file in the folder and in its folder of shards, links left out."""
        sizes: dict[str, int] = {}
        for under in ("", SHARDS):
            with suppress(*ABSENT):
                for entry in os.scandir(self._own(under)):
                    with suppress(FileNotFoundError):  # removed by a writer since it was listed
                        if entry.is_file(follow_symlinks=False):
                            sizes[str(PurePosixPath(under, entry.name))] = entry.stat().st_size
        return sizes

    def put(self, name: str, content: bytes, digest: str) -> None:
        """Have a file appear, in place of the one that has the name."""
        with replacing(self._own(name)) as temporary:
            temporary.write_bytes(content)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        for name in names:
            self._own(name).unlink(missing_ok=True)

    def fetch(self, name: str, digest: str) -> Path:
        """Path of this machine where a file that never changes can be read."""
        return self._own(name)

    @contextmanager
    def as_it_lies(self, name: str) -> Iterator[Path]:
        """Yield a path with the bytes that the file has where it lies, from no cache."""
        yield self._own(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one writer, waiting for another."""
        self.path.mkdir(parents=True, exist_ok=True)
        # In the folder itself, whatever path leads to it, and whoever owns the one above it.
        lock = FileLock(self._own(LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: another process is writing this dataset; waiting for it", self.path)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _own(self, name: str) -> Path:
        """The path of a name in this folder; a DatasetError where a link would lead out of it."""
        path = self.path
        for part in PurePosixPath(name).parts:
            path /= part
            if path.is_symlink():
                raise DatasetError(f"{path}: a link; remove it, a dataset has none")
        return path


class UrlFolder(Folder):
    """What is behind a URL; its shards are kept on this machine, in `path`, under their digest."""

    def __init__(self, url: str, cache: Path) -> None:
        super().__init__(cache)
        self.location = url
        self.remote = RemoteFolder(url, "popdb.path")

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """Read a small file; see `Folder.read`."""
        with of_dataset():
            return self.remote.read(name, most_bytes)

    def sizes(self) -> dict[str, int]:
        """Name → bytes, as the store says now."""
        return self.remote.sizes()

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects that may already be gone."""
        self.remote.remove(names)

    def put(self, name: str, content: bytes, digest: str) -> None:
        """Upload it, and keep a shard."""
        self.remote.put(content, name)
        if name.startswith(SHARDS):
            with replacing(self._kept(digest)) as temporary:
                temporary.write_bytes(content)

    def fetch(self, name: str, digest: str) -> Path:
        """Download the file unless it is kept already; a DatasetError where its bytes are others, or gone."""
        kept = self._kept(digest)
        with locked(kept):
            if kept.is_file() and sha256(kept) == digest:
                return kept
            with of_dataset(), replacing(kept) as temporary:
                there = self.remote.get(name, temporary, MOST_SHARD_BYTES)
                if not there or sha256(temporary) != digest:
                    fault = "its bytes are not those dataset.json names" if there else "missing"
                    raise DatasetError(f"{self.location}/{name}: {fault}; {REMEDY}")
        return kept

    @contextmanager
    def as_it_lies(self, name: str) -> Iterator[Path]:
        """Download the file for the time being."""
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path) as folder:
            copy = Path(folder) / "copy"
            with of_dataset():
                there = self.remote.get(name, copy, MOST_SHARD_BYTES)
            if not there:
                raise FileNotFoundError(f"{self.location}/{name}")
            yield copy

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one writer; an OperatorError names another, or one that was killed."""
        self.remote.sizes()  # what is wrong with the place is named here
        mine = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
        try:
            self.remote.filesystem.pipe_file(f"{self.remote.root}/{URL_LOCK}", mine, mode="create")
        except FileExistsError:
            holder = (self.read(URL_LOCK, 1000) or b"?").decode(errors="replace")
            remedy = f"wait, or delete {URL_LOCK} there if that process is gone"
            raise OperatorError(f"{self.location}: being written by {holder}; {remedy}") from None
        try:
            yield
        finally:
            self.remove([URL_LOCK])

    def _kept(self, digest: str) -> Path:
        return self.path / f"{digest}.safetensors"
