"""Artifacts: finished pieces of work, and the files they are made of, whole or absent.

An artifact is a folder `<data>/<stage>/<key>` with its files and `entry.json`, a manifest that lists them
beside the maker's record. It is built under a temporary name and renamed, so that presence means done. Its
name is a digest of all that determines it: nothing is ever out of date. Whoever wants it made holds its lock;
the kernel frees the lock of a killed process.

Machines that share no disk meet in a store, an fsspec URL (`settings.store`): what one has finished is copied
there, and another looks there before it makes it, and fetches files when they are read:

    <store>/<stage>/<key>/<sha256>.<suffix>   a file of the artifact
    <store>/<stage>/<key>/entry.json          its manifest, put last: presence means done
    <store>/<stage>/<key>/failed.json         how making it failed

Nothing in a store is locked: of two machines that make the same, equal bytes meet, and others (what a site
answers, what another GPU computes) lie side by side. The manifest put last holds; the other's files stay.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any

from filelock import FileLock
from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, Field

from samuel.config import without_secrets, wrong_place
from samuel.errors import InputError, MissingPartError, OperatorError, SamuelError, SettingsError
from samuel.reading import MAX_JSON_BYTES, parse_json, read_bounded, read_json

logger = logging.getLogger(__name__)

MANIFEST, FAILED = "entry.json", "failed.json"
MAX_FILES = 100_000
READERS = 16  # artifacts of a store that are looked at together
GONE = "removed since this run saw it, as by one with other settings of retention; start this one again"


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
    temporary.unlink(missing_ok=True)  # a link of this name would lead elsewhere
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
    except (FileNotFoundError, NotADirectoryError, ValueError, InputError):  # absent, or damaged
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
    return folder.with_name(f"{folder.name}.{FAILED}")


# Artifacts of many machines.


class RemoteFolder:
    """Files behind a URL, by relative names with `/`; what cannot be done there is an OperatorError.

    The file system's own configuration holds the credentials.
    """

    def __init__(self, location: str, setting: str) -> None:
        """A SettingsError for a URL, given by `setting`, that is none to use; no connection yet."""
        if wrong := wrong_place(location):
            raise SettingsError(f"{setting} is {wrong}")
        self.location, self.setting = location, setting
        try:
            self.filesystem, root = url_to_fs(location)
        except (ImportError, ValueError) as error:  # no package; no such protocol
            raise MissingPartError(
                f"{location}: {without_secrets(str(error))}; give a folder, or install what it needs"
            ) from error
        except Exception as error:
            raise self._unusable(error) from error
        self.root: str = root.rstrip("/")

    def sizes(self, under: str = "") -> dict[str, int]:
        """Name, relative to `under` → bytes of every file below it."""
        # By walking folders most file systems would take one that they cannot read for an empty one.
        walks = type(self.filesystem).find is AbstractFileSystem.find
        options = {"on_error": "raise"} if walks else {}
        top = f"{self.root}/{under}"
        with suppress(FileNotFoundError), self._asking():
            self.filesystem.invalidate_cache()
            # Not `ls`: where there is nothing, that of s3fs lists all that lies beside it.
            found = self.filesystem.find(top, detail=True, **options)
            return {name[len(top) :].lstrip("/"): about["size"] or 0 for name, about in found.items()}
        return {}

    def read(self, name: str, max_bytes: int = MAX_JSON_BYTES) -> bytes | None:
        """The content of a small file; None where there is none, an InputError where it is larger."""
        with suppress(FileNotFoundError), self._asking():
            with self.filesystem.open(f"{self.root}/{name}", "rb") as file:
                content: bytes = file.read(max_bytes + 1)
            if len(content) > max_bytes:
                raise InputError(f"{self.location}/{name}: over {max_bytes:,} bytes, which none has")
            return content
        return None

    def put(self, content: bytes, name: str) -> None:
        """Have a file with this content there in place of what has the name."""
        target = f"{self.root}/{name}"
        try:
            with self._asking():
                if isinstance(self.filesystem, LocalFileSystem):
                    with replacing(Path(target)) as temporary:  # fsspec would show what is not whole yet
                        temporary.write_bytes(content)
                else:
                    self.filesystem.pipe_file(target, content)
        except FileNotFoundError as error:  # a place that cannot be written into is not merely empty
            raise self._unusable(error) from error

    def get(self, name: str, target: Path, max_bytes: int) -> bool:
        """Copy a file here; False where there is none, an InputError where more comes than `max_bytes`."""

        def bound(size: int | None, value: int) -> None:  # by what is said, and by what came so far
            if max(size or 0, value) > max_bytes:
                raise InputError(f"{self.location}/{name}: over {max_bytes:,} bytes, which it cannot have")

        full = explain_full_disk(target.parent, "free some space, and start the run again")
        with suppress(FileNotFoundError), self._asking(), full:
            self.filesystem.get_file(f"{self.root}/{name}", str(target), callback=Callback(hooks={"": bound}))
            return True
        return False

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        for name in names:
            with suppress(FileNotFoundError), self._asking():
                self.filesystem.rm_file(f"{self.root}/{name}")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, SamuelError):
            raise
        except Exception as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> OperatorError:
        reason = without_secrets(f"{type(error).__name__}: {error}")  # an address in it may be signed
        remedy = f"check {self.setting}, the network, the credentials and the room there, then start again"
        return OperatorError(f"{self.location} cannot be used ({reason}); {remedy}. What was done stays")


FORGOTTEN = json_bytes({"forgotten": True})
"""In the place of a manifest: machines that have the artifact as released must not go on believing it."""


class Store:
    """Artifacts of songs in the data folder `root` and, where `url` is given, in a store of many machines."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.root = root
        self.remote = RemoteFolder(url, "settings.store") if url else None

    def find(self, folder: Path) -> Artifact | None:
        """The artifact that belongs at `folder`; its files may still lie in the store alone.

        What the store lacks, as after a kill, is published; what others released is; how they failed is kept.
        """
        here = find_artifact(folder)
        if self.remote is None:
            return here
        sizes = self.remote.sizes(_key(folder))
        if here and not here.released and MANIFEST in sizes and _whole(here, sizes):
            return here
        there, failure = self._published(folder, sizes), failure_file(folder)
        if here is None:
            if 0 < sizes.get(FAILED, 0) <= MAX_JSON_BYTES and not failure.exists():
                with replacing(failure) as temporary:
                    temporary.write_bytes(self.remote.read(f"{_key(folder)}/{FAILED}") or b"")
            return there
        if there and there.released:
            release(folder)
        if there and (there.released or here.released):  # released there, or made again
            return there
        if here.released and self.remote.read(f"{_key(folder)}/{MANIFEST}") == FORGOTTEN:
            forget(folder)
            return None
        self.publish(folder)
        return here

    def all(self, stage: Path) -> Iterator[Artifact]:
        """Every artifact that belongs into the folder of a stage."""
        names = {folder.name for folder in stage.glob("[!.]*/")}
        if self.remote is None:
            yield from filter(None, map(find_artifact, (stage / name for name in sorted(names))))
            return
        names |= {name.partition("/")[0] for name in self.remote.sizes(stage.name)}
        with ThreadPoolExecutor(READERS) as readers:
            yield from filter(None, readers.map(self.find, (stage / name for name in sorted(names))))

    def fetch(self, artifact: Artifact) -> Artifact:
        """The artifact with its files on this machine; an OperatorError where they are gone, or damaged."""
        folder = self.root / _key(artifact.folder)
        with locked(failure_file(folder)):  # what one thread has fetched another must not take from it
            for here in map(find_artifact, (artifact.folder, folder)):
                if here and not here.released and here.sha256 == artifact.sha256:
                    return here
            if (remote := self.remote) is None:
                raise OperatorError(f"{artifact.folder}: {GONE}")

            def download(target: Path) -> dict[str, Any]:
                for name, there in _objects(artifact).items():
                    at, file = f"{_key(folder)}/{there}", target / name
                    if (
                        not remote.get(at, file, artifact.sizes[name])
                        or sha256(file) != artifact.sha256[name]
                    ):
                        logger.warning("%s/%s: gone, or damaged", remote.location, at)
                        remote.remove([at])  # so that it is published, or made, again
                        raise OperatorError(f"{artifact.path(name)}: at {remote.location} damaged, or {GONE}")
                return artifact.record

            forget(folder)  # released, or made here of other bytes
            return make_artifact(folder, download)

    def publish(self, folder: Path) -> None:
        """Have other machines find the artifact that was made at `folder`; its manifest is copied last."""
        if self.remote is None:
            return
        with locked(folder):
            here = find_artifact(folder)
            if here is None:  # removed since
                return
            sizes, names = self.remote.sizes(_key(folder)), {} if here.released else _objects(here)
            for name, there in names.items():
                if sizes.get(there) != here.sizes[name]:
                    self.remote.put(here.path(name).read_bytes(), f"{_key(folder)}/{there}")
            self.remote.put(here.path(MANIFEST).read_bytes(), f"{_key(folder)}/{MANIFEST}")

    def publish_failure(self, folder: Path) -> None:
        """Have other machines know how making the artifact at `folder` failed."""
        if self.remote:
            self.remote.put(failure_file(folder).read_bytes(), f"{_key(folder)}/{FAILED}")

    def release(self, folder: Path) -> None:
        """Remove the artifact's files, not its manifest, everywhere; others follow when they next look."""
        key = _key(folder)
        release(self.root / key)
        sizes = self.remote.sizes(key) if self.remote else {}
        files = [f"{key}/{name}" for name in sizes if name not in (MANIFEST, FAILED)]
        if self.remote and files and self._published(folder, sizes):
            # First the word, then the deed, as on this machine.
            name = f"{key}/{MANIFEST}"
            manifest = parse_json(self.remote.read(name) or b"{}", name) | {"released": True}
            self.remote.put(json_bytes(manifest), f"{key}/{MANIFEST}")
            self.remote.remove(files)

    def forget(self, folder: Path) -> None:
        """Have a released artifact made again by the next who asks for it, on whatever machine."""
        if self.remote:
            self.remote.put(FORGOTTEN, f"{_key(folder)}/{MANIFEST}")
        forget(folder)

    def _published(self, folder: Path, sizes: Mapping[str, int]) -> Artifact | None:
        """The artifact as the store has it; None where it is absent, forgotten or damaged."""
        if not self.remote or not 0 < sizes.get(MANIFEST, 0) <= MAX_JSON_BYTES:
            return None
        content = self.remote.read(f"{_key(folder)}/{MANIFEST}") or FORGOTTEN
        with suppress(ValueError):
            artifact = Manifest.parse(content, folder)
            return artifact if artifact.released or _whole(artifact, sizes) else None
        return None


def _key(folder: Path) -> str:
    """The name of an artifact in the store, whatever data folder a machine has."""
    return f"{folder.parent.name}/{folder.name}"


def _objects(artifact: Artifact) -> dict[str, str]:
    """The names in the store, within the artifact, of its files."""
    return {name: f"{digest}{Path(name).suffix}" for name, digest in artifact.sha256.items()}


def _whole(artifact: Artifact, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(there) == artifact.sizes[name] for name, there in _objects(artifact).items())
