"""The finished pieces of songs in the data folder and in a store, where machines that share no disk meet.

A piece is an entry of `samuel.files`, named by what determines it: nothing in a store is ever out of date.
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

import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from samuel.bucket import Bucket, bucket_of
from samuel.config import Settings
from samuel.errors import OperatorError
from samuel.files import (
    MANIFEST,
    Entry,
    as_json,
    entry_of,
    failure_file,
    find_entry,
    forget,
    locked,
    make_entry,
    release,
    replacing,
    sha256,
)
from samuel.pieces import HERE, Pieces

FAILED = "failed.json"
FORGOTTEN = {"forgotten": True}
"""In the place of a manifest: those who have the entry as released must not go on believing it."""
AT_ONCE = 16  # manifests read side by side

logger = logging.getLogger(__name__)


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

    def find(self, folder: Path) -> Entry | None:
        """The entry that belongs at `folder`, after the store and this machine have told each other of it.

        What was made here and is not there, as after a kill, is published. What others released is released.
        """
        here, there = find_entry(folder), self.bucket.sizes(_key(folder))
        if here is None:
            self._learn_failure(folder, there)
            return self._found(folder, there)
        if MANIFEST in there and not here.released and not _missing(here, there):
            return here
        return self._agreed(here, there)

    def all(self, stage: Path) -> Iterator[Entry]:
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

    def at_hand(self, entry: Entry) -> Entry:
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
            return make_entry(folder, lambda target: self._fetch(entry, target))

    def publish(self, folder: Path) -> None:
        """Copy the entry at `folder` to the store, its manifest last."""
        with locked(folder):
            here = find_entry(folder)
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

    def _here(self, entry: Entry) -> Entry | None:
        for folder in dict.fromkeys((entry.folder, self.root / _key(entry.folder))):
            here = find_entry(folder)
            if here and not here.released and here.sha256 == entry.sha256:
                return here
        return None

    def _agreed(self, here: Entry, there: Mapping[str, int]) -> Entry | None:
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

    def _found(self, folder: Path, there: Mapping[str, int]) -> Entry | None:
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

    def _fetch(self, entry: Entry, target: Path) -> dict[str, Any]:
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


def _missing(here: Entry, there: Mapping[str, int]) -> list[str]:
    """Names of the files of an entry of this machine that are not in the store."""
    if here.released:
        return []
    names = {name: _object_name(name, digest) for name, digest in here.sha256.items()}
    return [name for name, object_ in names.items() if there.get(object_) != here.path(name).stat().st_size]


def _whole(folder: Path, manifest: Any, there: Mapping[str, int]) -> Entry | None:
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
