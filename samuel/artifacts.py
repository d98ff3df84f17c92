"""The finished pieces of songs in the data folder and in a store, where machines that share no disk meet.

A piece is an entry of `samuel.artifacts`, named by what determines it: nothing in a store is ever out of
date.
Each machine works in a data folder of its own, `settings.data`. What it finishes it copies to the store,
`settings.store`; what is not here it looks for there before it makes it. The manifest says all that a stage
has to know of an earlier one; files come here when they are needed. `<stage>` is searches, raw, stems or
latents, `<key>` the name of the entry's folder:

    <store>/<stage>/<key>/<sha256>.<suffix>   a file of the entry
    <store>/<stage>/<key>/entry.json          its manifest, put last: presence means done
    <store>/<stage>/<key>/failed.json         how making it failed, and how often

Files are named by their content, since two machines may make the same entry without knowing of each other:
same bytes meet, and others (what a site answers, what another GPU computes) lie beside them. The manifest put
last holds; who was told of the other still finds its files. Nothing is locked.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from samuel.config import Settings, wrong_url
from samuel.errors import (
    MissingPartError,
    OperatorError,
    SamuelError,
    SettingsError,
)

logger = logging.getLogger(__name__)


# Files that are whole or absent.
#
# A finished piece of work is an *entry*: a folder that holds its files and `entry.json`, which lists them
# with size and sha256 beside the maker's record. It is built under a temporary name and renamed, so that
# presence means done. Whoever wants it built holds its lock; the kernel frees the lock of a killed process.


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
class Artifact:
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


def find_artifact(folder: Path) -> Artifact | None:
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


def entry_of(folder: Path, manifest: Any) -> tuple[Artifact, dict[str, int]]:
    """The entry that a manifest tells of, and the sizes of its files.

    Raises:
        KeyError, TypeError or AttributeError: It is no manifest.
    """
    sizes = {name: file["bytes"] for name, file in manifest["files"].items()}
    digests = {name: file["sha256"] for name, file in manifest["files"].items()}
    return Artifact(folder, manifest["record"], digests, released=manifest.get("released", False)), sizes


def make_artifact(folder: Path, make: Callable[[Path], dict[str, Any]]) -> Artifact:
    """The entry at `folder`, made first by `make(temporary folder) -> record` where it is not there.

    A damaged entry is replaced. Two processes that want the same entry take turns; the second finds it done.
    """
    with locked(folder):
        if entry := find_artifact(folder):
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
        entry = find_artifact(folder)
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


# Files behind an fsspec URL, or in a folder that machines share: listed, read, put, fetched, removed.


Answer = TypeVar("Answer")

# A cloud's own file system has tried again by itself before it raises; others have not.
PASSING = (ConnectionError, TimeoutError)
PAUSES_S = (0.5, 2.0, 8.0)


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


# The finished pieces of songs (entries of `samuel.artifacts`), wherever they lie: here, in the data folder.


class Pieces:
    """The finished pieces of songs in the data folder, and nowhere else."""

    def find(self, folder: Path) -> Artifact | None:
        """The entry that belongs at `folder`; its files may still lie in the store."""
        return find_artifact(folder)

    def all(self, stage: Path) -> Iterator[Artifact]:
        """Every entry that belongs into the folder of a stage."""
        return (entry for folder in stage.glob("[!.]*/") if (entry := find_artifact(folder)))

    def at_hand(self, entry: Artifact) -> Artifact:
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


FAILED = "failed.json"
FORGOTTEN = {"forgotten": True}
"""In the place of a manifest: those who have the entry as released must not go on believing it."""
AT_ONCE = 16  # manifests read side by side


def pieces_of(settings: Settings) -> Pieces:
    """Where the finished pieces of songs lie.

    Raises:
        MissingPartError: The package that the store's protocol needs is not installed.
    """
    return _store(settings.store, settings.data) if settings.store else HERE


@lru_cache(maxsize=8)  # or every thread would connect anew
def _store(url: str, root: Path) -> "Store":
    return Store(bucket_of(url), root)


@dataclass(frozen=True)
class Store(Pieces):
    """The finished pieces of songs in a data folder, `root`, and in a store.

    Each method says in an OperatorError what of the store cannot be used.
    """

    bucket: Bucket
    root: Path

    def find(self, folder: Path) -> Artifact | None:
        """The entry that belongs at `folder`, after the store and this machine have told each other of it.

        What was made here and is not there, as after a kill, is published. What others released is released.
        """
        here, there = find_artifact(folder), self.bucket.sizes(_key(folder))
        if here is None:
            self._learn_failure(folder, there)
            return self._found(folder, there)
        if MANIFEST in there and not here.released and not _missing(here, there):
            return here
        return self._agreed(here, there)

    def all(self, stage: Path) -> Iterator[Artifact]:
        """Every entry that belongs into the folder of a stage: the store's word before this machine's."""
        listed: dict[str, dict[str, int]] = {}
        for name, size in self.bucket.sizes(stage.name).items():
            key, _, file = name.partition("/")
            listed.setdefault(key, {})[file] = size
        told = {stage / key: files for key, files in listed.items() if MANIFEST in files}
        found = set[Path]()
        with ThreadPoolExecutor(AT_ONCE) as readers:
            for entry in filter(None, readers.map(lambda folder: self._found(folder, told[folder]), told)):
                found.add(entry.folder)
                yield entry
        for entry in super().all(stage):
            if entry.folder not in found and not (entry.folder in told and entry.released):
                yield entry

    def at_hand(self, entry: Artifact) -> Artifact:
        """The entry, which another machine may have told of, with its files on this machine.

        Raises:
            OperatorError: They are gone, or damaged; or the store cannot be used.
        """
        folder = self.root / _key(entry.folder)
        if here := self._here(entry):
            return here
        with locked(failure_file(folder)):  # what one thread has fetched another must not take from it
            if here := self._here(entry):
                return here
            self._learn_failure(folder, self.bucket.sizes(_key(folder)))
            forget(folder)  # released, or made here of other bytes
            return make_artifact(folder, lambda target: self._fetch(entry, target))

    def publish(self, folder: Path) -> None:
        """Copy the entry at `folder` to the store, its manifest last."""
        with locked(folder):
            here = find_artifact(folder)
            if here is None:  # removed since
                return
            there = self.bucket.sizes(_key(folder))
            for name in _missing(here, there):
                self.bucket.put(here.path(name), _object(folder, name, here.sha256[name]))
            self.bucket.put(here.path(MANIFEST), f"{_key(folder)}/{MANIFEST}")

    def publish_failure(self, folder: Path) -> None:
        """Copy to the store what is remembered of the failure."""
        self.bucket.put(failure_file(folder), f"{_key(folder)}/{FAILED}")

    def release(self, folder: Path) -> None:
        """Remove the entry's files here and in the store; other machines follow when they next look."""
        key = _key(folder)
        release(self.root / key)
        there = self.bucket.sizes(key)
        files = [f"{key}/{name}" for name in there if name not in (MANIFEST, FAILED)]
        if not files or not _whole(folder, manifest := self._manifest(folder), there):
            return
        # First the word, then the deed, as on this machine.
        self.bucket.write(as_json({**manifest, "released": True}), f"{key}/{MANIFEST}")
        self.bucket.remove(files)

    def forget(self, folder: Path) -> None:
        """Have a released entry made again by the next who asks for it, on whatever machine."""
        self.bucket.write(as_json(FORGOTTEN), f"{_key(folder)}/{MANIFEST}")
        forget(folder)

    def _here(self, entry: Artifact) -> Artifact | None:
        for folder in dict.fromkeys((entry.folder, self.root / _key(entry.folder))):
            here = find_artifact(folder)
            if here and not here.released and here.sha256 == entry.sha256:
                return here
        return None

    def _agreed(self, here: Artifact, there: Mapping[str, int]) -> Artifact | None:
        """What holds where this machine and the store may differ."""
        folder = here.folder
        manifest = self._manifest(folder) if MANIFEST in there else None
        if manifest == FORGOTTEN and here.released:
            forget(folder)
            return None
        found = _whole(folder, manifest, there)
        if found and found.released:
            release(folder)
            return found
        if found and here.released:  # made again
            return found
        self.publish(folder)
        return here

    def _found(self, folder: Path, there: Mapping[str, int]) -> Artifact | None:
        """The entry as the store has it; none where it is absent or a file is missing or of another size."""
        if MANIFEST not in there:
            return None
        manifest = self._manifest(folder)
        entry = _whole(folder, manifest, there)
        if entry is None and manifest != FORGOTTEN:
            logger.warning("%s/%s: damaged; made again", self.bucket.url, _key(folder))
        return entry

    def _manifest(self, folder: Path) -> Any:
        try:
            return json.loads(self.bucket.read(f"{_key(folder)}/{MANIFEST}") or b"")
        except ValueError:
            return None

    def _fetch(self, entry: Artifact, target: Path) -> dict[str, Any]:
        for name, digest in entry.sha256.items():
            there = _object(entry.folder, name, digest)
            if self.bucket.get(there, target / name) and sha256(target / name) == digest:
                continue
            logger.warning("%s/%s: gone, or damaged", self.bucket.url, there)
            self.bucket.remove([there])  # so that it is published, or made, again
            raise OperatorError(
                f"{entry.path(name)}: not here, and in the store {self.bucket.url} damaged, or removed since "
                "this run saw it; start this one again"
            )
        return entry.record

    def _learn_failure(self, folder: Path, there: Mapping[str, int]) -> None:
        """Remember here what failed elsewhere, where that is more."""
        if FAILED not in there:
            return
        content, path = self.bucket.read(f"{_key(folder)}/{FAILED}") or b"", failure_file(folder)
        if _attempts(content) > _attempts(path.read_bytes() if path.exists() else b""):
            with replacing(path) as temporary:
                temporary.write_bytes(content)


def _key(folder: Path) -> str:
    """What an entry is called in the store, whatever data folder a machine has."""
    return f"{folder.parent.name}/{folder.name}"


def _object(folder: Path, name: str, digest: str) -> str:
    return f"{_key(folder)}/{_object_name(name, digest)}"


def _object_name(name: str, digest: str) -> str:
    return f"{digest}{Path(name).suffix}"


def _missing(here: Artifact, there: Mapping[str, int]) -> list[str]:
    """Names of the files of an entry of this machine that are not in the store."""
    if here.released:
        return []
    names = {name: _object_name(name, digest) for name, digest in here.sha256.items()}
    return [name for name, object_ in names.items() if there.get(object_) != here.path(name).stat().st_size]


def _whole(folder: Path, manifest: Any, there: Mapping[str, int]) -> Artifact | None:
    """The entry of a manifest from the store, where its files are there as well."""
    try:
        entry, sizes = entry_of(folder, manifest)
    except (KeyError, TypeError, AttributeError):
        return None
    objects = {_object_name(name, digest): sizes[name] for name, digest in entry.sha256.items()}
    if any(Path(name).name != name for name in (*sizes, *objects)):  # it would lead out of the entry's folder
        return None
    whole = all(there.get(object_) == size for object_, size in objects.items())
    return entry if entry.released or whole else None


def _attempts(failure: bytes) -> int:
    try:
        return int(json.loads(failure)["attempts"])
    except (ValueError, KeyError, TypeError):  # none, or damaged
        return 0
