"""A dataset behind an fsspec URL, and what tells it from one on this machine."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fsspec.core import url_to_fs

from samuel.config.popdb import wrong_url
from samuel.errors import DatasetError, MissingPartError, OperatorError, SamuelError, SettingsError
from samuel.files import locked, replacing, sha256
from samuel.popdb.shards.folder import Folder, LocalFolder

LOCK = ".lock.json"
OWN = (OSError, ImportError, ValueError, SamuelError)  # what is said of these is said elsewhere


def folder_of(location: Path | str, cache: Path | None = None) -> Folder:
    """The folder that a path or URL names.

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
        with _told(text):
            filesystem, root = url_to_fs(text)
    except (ImportError, ValueError) as error:  # no package; no such protocol
        raise MissingPartError(f"{text}: {error}; give a local folder, or install what it needs") from error
    return UrlFolder(text, filesystem, root.rstrip("/"), cache or _user_cache())


@dataclass(frozen=True)
class UrlFolder:
    """A folder behind a URL; its shards are kept on this machine, under their digest."""

    url: str
    filesystem: Any
    root: str
    cache: Path

    @property
    def location(self) -> str:
        """Its URL."""
        return self.url

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            with _told(self.url):
                return self.filesystem.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None

    def sizes(self, under: str) -> dict[str, int]:
        """Name → bytes of the files in a folder below."""
        self.filesystem.invalidate_cache()
        try:
            with _told(self.url):
                found = self.filesystem.ls(f"{self.root}/{under}", detail=True)
        except FileNotFoundError:
            return {}
        return {f"{under}/{Path(entry['name']).name}": entry["size"] for entry in found}

    def put(self, source: Path, name: str, digest: str) -> None:
        """Upload a finished file; a shard stays at hand."""
        with _told(self.url):
            self.filesystem.put_file(str(source), f"{self.root}/{name}")
        if not name.startswith("shards/"):
            source.unlink()
            return
        kept = self._kept(name, digest)
        kept.parent.mkdir(parents=True, exist_ok=True)
        source.replace(kept)

    def move(self, name: str, to: str) -> None:
        """Copy an object and delete the first."""
        with _told(self.url):
            self.filesystem.mv(f"{self.root}/{name}", f"{self.root}/{to}")

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects that may already be gone."""
        for name in names:
            with suppress(FileNotFoundError), _told(self.url):
                self.filesystem.rm_file(f"{self.root}/{name}")

    def at_hand(self, name: str, digest: str) -> Path:
        """Fetch the file once, and check it; what is kept of it, once in a process.

        Raises:
            DatasetError: It is gone, or its bytes are not those of `digest`.
        """
        kept = self._kept(name, digest)
        with locked(kept):
            if not kept.is_file() or not _intact(kept, digest):
                self._fetch(name, digest, kept)
        return kept

    @property
    def workspace(self) -> Path:
        """A folder in the cache, of this writer alone."""
        return self.cache / f".work-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; another is refused.

        Raises:
            OperatorError: There is a writer, or one that was killed; the message names it.
        """
        lock = f"{self.root}/{LOCK}"
        mine = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
        try:
            with _told(self.url):
                self.filesystem.pipe_file(lock, mine, mode="create")
        except FileExistsError:
            holder = (self.read(LOCK) or b"?").decode(errors="replace")
            raise OperatorError(
                f"{self.url}: being written by {holder}; wait, or delete {LOCK} there if that process is gone"
            ) from None
        try:
            yield
        finally:
            shutil.rmtree(self.workspace, ignore_errors=True)
            self.remove([LOCK])

    def _kept(self, name: str, digest: str) -> Path:
        return self.cache / f"{digest}{Path(name).suffix}"

    def _fetch(self, name: str, digest: str, target: Path) -> None:
        with replacing(target) as temporary:
            try:
                with _told(self.url):
                    self.filesystem.get_file(f"{self.root}/{name}", str(temporary))
            except FileNotFoundError:
                raise DatasetError(
                    f"{self.url}/{name}: missing; the dataset may have been rewritten"
                ) from None
            _intact.cache_clear()
            if sha256(temporary) != digest:
                raise DatasetError(f"{self.url}/{name}: its bytes are not those of the index")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what a file system's own library raises, which has no name here, into one error.

    Raises:
        OperatorError: The file system cannot be used.
    """
    try:
        yield
    except OWN:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise OperatorError(f"{url}: {reason}; check the address and the credentials") from error


@cache
def _intact(path: Path, digest: str) -> bool:
    return sha256(path) == digest


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "samuel" / "shards"
