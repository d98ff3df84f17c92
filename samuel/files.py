"""Files that are whole or absent.

A finished piece of work is an *entry*: a folder that holds its files and `entry.json`, which lists them
with size and sha256 beside the maker's record. It is built under a temporary name and renamed, so that
presence means done. Whoever wants it built holds its lock; the kernel frees the lock of a killed process.
"""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from samuel.errors import OperatorError

MANIFEST = "entry.json"


def digest(*parts: Any) -> str:
    """Twenty hexadecimal digits that stand for `parts` (anything JSON can write, in any key order)."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, it appears as `path`, whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_told(place: object, then: str) -> Iterator[None]:
    """Turn a full disk, or a used-up quota, into what a person can act on.

    Args:
        place: Where is no space left.
        then: What is there now, and what to do.

    Raises:
        OperatorError: No space is left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OperatorError(f"{place}: the disk is full; {then}") from error


def as_json(value: Any) -> bytes:
    """The bytes of a JSON file; the same value gives the same."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; the same value gives the same bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(as_json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text("utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


@dataclass(frozen=True)
class Entry:
    """A finished folder.

    Attributes:
        folder: Where it lies.
        record: What its maker said about it (JSON).
        sha256: Digest by file name.
        made: True when this call made it, False when it was there.
        released: True when its files were removed because nobody needs them; what it says of them holds.
    """

    folder: Path
    record: dict[str, Any]
    sha256: dict[str, str]
    made: bool = False
    released: bool = False

    def path(self, name: str) -> Path:
        """Path of one of its files."""
        return self.folder / name


def find_entry(folder: Path) -> Entry | None:
    """The entry at `folder`, or None where it is absent or a listed file is missing or of another size."""
    try:
        entry, sizes = entry_of(folder, read_json(folder / MANIFEST))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged
        return None
    for name, size in sizes.items():
        path = folder / name
        if not entry.released and (not path.is_file() or path.stat().st_size != size):
            return None
    return entry


def entry_of(folder: Path, manifest: Any) -> tuple[Entry, dict[str, int]]:
    """The entry that a manifest tells of, and the sizes of its files.

    Raises:
        KeyError, TypeError or AttributeError: It is no manifest.
    """
    sizes = {name: file["bytes"] for name, file in manifest["files"].items()}
    digests = {name: file["sha256"] for name, file in manifest["files"].items()}
    return Entry(folder, manifest["record"], digests, released=manifest.get("released", False)), sizes


def make_entry(folder: Path, make: Callable[[Path], dict[str, Any]]) -> Entry:
    """The entry at `folder`, made first by `make(temporary folder) -> record` where it is not there.

    A damaged entry is replaced. Two processes that want the same entry take turns; the second finds it done.
    """
    with locked(folder):
        if entry := find_entry(folder):
            return entry
        temporary = temporary_folder(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _seal(temporary, make(temporary))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
            fsync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        entry, _ = entry_of(folder, read_json(folder / MANIFEST))
        return replace(entry, made=True)


def release(folder: Path) -> None:
    """Remove the files of the entry at `folder` and keep what it says of them; no entry, nothing happens."""
    with locked(folder):
        entry = find_entry(folder)
        if entry is None or (entry.released and not any(entry.path(name).exists() for name in entry.sha256)):
            return
        manifest = read_json(folder / MANIFEST)
        # First the word, then the deed: killed between the two, it is released and can be so again.
        write_json(folder / MANIFEST, manifest | {"released": True})
        remove(folder / name for name in manifest["files"])


def forget(folder: Path) -> None:
    """Have the entry at `folder` made again by the next who asks for it."""
    with locked(folder):
        remove([folder / MANIFEST])


def temporary_folder(folder: Path) -> Path:
    """Where an entry is built before it is whole."""
    return folder.with_name(f".{folder.name}.tmp")


def partial_folder(folder: Path) -> Path:
    """Where what an entry is made from may lie between two tries of making it."""
    return folder.with_name(f".{folder.name}.part")


def failure_file(folder: Path) -> Path:
    """Where it is remembered that an entry could not be made."""
    return folder.with_name(f"{folder.name}.failed.json")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`, waiting for another process that holds it."""
    name = path.parent / ".locks" / f"{path.name}.lock"
    name.parent.mkdir(parents=True, exist_ok=True)
    with holding(name):
        yield


@contextmanager
def holding(lock_file: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock file, waiting, after `on_wait`, for another process that holds it."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove(paths: Iterable[Path]) -> None:
    """Delete files that may already be gone."""
    for path in paths:
        path.unlink(missing_ok=True)


def _seal(folder: Path, record: dict[str, Any]) -> None:
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        fsync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / MANIFEST, {"files": files, "record": record})
