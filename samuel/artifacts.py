"""Artifacts: finished pieces of work on disk, and the files they are made of, whole or absent.

An artifact is a folder that holds its files and `entry.json`, a manifest that lists them with size and sha256
beside the maker's record. It is built under a temporary name and renamed, so that presence means done. Its
name is a digest of all that determines it: nothing is ever out of date. Whoever wants it made holds its lock;
the kernel frees the lock of a killed process.
"""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any

from filelock import FileLock
from pydantic import BaseModel, Field

from samuel.errors import OperatorError

MANIFEST = "entry.json"
MAX_JSON_BYTES = 2**26
MAX_FILES = 100_000


# Digests, and files that are whole or absent.


def digest(*parts: Any) -> str:
    """Twenty hexadecimal digits that stand for `parts` (JSON or pydantic models, in any key order)."""

    def plain(value: object) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=plain)
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
def explain_full_disk(place: object, remedy: str) -> Iterator[None]:
    """Turn a full disk, or a used-up quota, at `place` into an OperatorError that ends with `remedy`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OperatorError(f"{place}: the disk is full; {remedy}") from error


def json_bytes(value: Any) -> bytes:
    """Content of a JSON file; the same value gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(value))


def read_bounded(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Read a small file; a ValueError where it is larger than `max_bytes`."""
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path}: over {max_bytes} bytes")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file; a ValueError where it is none, or larger than any that is written here."""
    return json.loads(read_bounded(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line cut short by a kill is left out."""
    lines = path.read_text("utf-8").split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1] if line]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`, waiting for another process that holds it."""
    file = path.parent / ".locks" / f"{path.name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file):
        yield


# Artifacts on this machine.


@dataclass(frozen=True)
class Artifact:
    """A finished folder."""

    folder: Path
    record: dict[str, Any]  # what its maker recorded
    sha256: dict[str, str]  # by file name
    sizes: dict[str, int] = field(default_factory=dict)  # in bytes
    made: bool = False  # by this call; False when it was there
    released: bool = False  # its files were removed because nobody needs them; the rest still holds

    def path(self, name: str) -> Path:
        """Path of one of its files."""
        return self.folder / name


class FileRecord(BaseModel, strict=True, extra="forbid"):
    """A file in a manifest."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


# A plain name: it leads to no other folder, whatever system reads it.
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$", max_length=255)]


class Manifest(BaseModel, strict=True, extra="forbid"):
    """Content of `entry.json`. An artifact may come from a stranger, as a model or a store can."""

    files: Annotated[dict[FileName, FileRecord], Field(max_length=MAX_FILES)]
    record: dict[str, Any]
    released: bool = False

    @classmethod
    def parse(cls, content: bytes, folder: Path) -> Artifact:
        """The artifact at `folder` that a manifest describes; a ValueError where it is none."""
        manifest = cls.model_validate_json(content)
        digests = {name: file.sha256 for name, file in manifest.files.items()}
        sizes = {name: file.bytes for name, file in manifest.files.items()}
        return Artifact(folder, manifest.record, digests, sizes, released=manifest.released)


def find_artifact(folder: Path) -> Artifact | None:
    """The artifact at `folder`; None where it is absent, or a listed file is missing or of another size."""
    try:
        artifact = Manifest.parse(read_bounded(folder / MANIFEST), folder)
        # A link is no file: it could lead anywhere.
        found = {} if artifact.released else {name: (folder / name).lstat() for name in artifact.sizes}
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # absent, or damaged
        return None
    whole = all(S_ISREG(f.st_mode) and f.st_size == artifact.sizes[name] for name, f in found.items())
    return artifact if whole else None


def make_artifact(folder: Path, make: Callable[[Path], dict[str, Any]]) -> Artifact:
    """The artifact at `folder`, made first by `make(temporary folder) -> record` where it is not there.

    A damaged one is replaced. Two processes that want the same take turns; the second finds it done.
    """
    with locked(folder):
        if artifact := find_artifact(folder):
            return artifact
        temporary = temporary_folder(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            record = make(temporary)
            files: dict[str, dict[str, Any]] = {}
            for path in sorted(temporary.iterdir()):
                fsync(path)
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            write_json(temporary / MANIFEST, {"files": files, "record": record})
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
            fsync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return replace(Manifest.parse(read_bounded(folder / MANIFEST), folder), made=True)


def release(folder: Path) -> None:
    """Remove the files of the artifact at `folder` and keep its manifest; without one, nothing happens."""
    with locked(folder):
        artifact = find_artifact(folder)
        if artifact and not artifact.released:
            # First the word, then the deed: killed between the two, it is released and can be so again.
            write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"released": True})
        for name in artifact.sha256 if artifact else ():
            (folder / name).unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Have the artifact at `folder` made again by the next who asks for it."""
    with locked(folder):
        (folder / MANIFEST).unlink(missing_ok=True)


def temporary_folder(folder: Path) -> Path:
    """Where an artifact is built before it is whole."""
    return folder.with_name(f".{folder.name}.tmp")


def partial_folder(folder: Path) -> Path:
    """Where what an artifact is made from may lie between two tries of making it."""
    return folder.with_name(f".{folder.name}.part")


def failure_file(folder: Path) -> Path:
    """Where it is remembered that an artifact could not be made."""
    return folder.with_name(f"{folder.name}.failed.json")
