"""A store of artifacts where machines that share no disk meet.

Each machine works in a data folder of its own, `settings.data`. Where `settings.store` names an fsspec URL,
finished artifacts are copied there, and what a machine does not have it looks for there before it makes it.
The manifest is enough for later stages to go on; files are fetched when they are read. `<stage>` is searches,
raw, stems or latents, `<key>` the name of the artifact's folder:

    <store>/<stage>/<key>/<sha256>.<suffix>   a file of the artifact
    <store>/<stage>/<key>/entry.json          its manifest, put last: presence means done
    <store>/<stage>/<key>/failed.json         how making it failed, and how often

Files are named by their content, since two machines may make the same artifact without knowing of each
other: equal bytes meet, and others (what a site answers, what another GPU computes) lie beside them. The
manifest put last holds; who read the other one still finds its files. Nothing in a store is locked.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from samuel.artifacts import (
    MANIFEST,
    MAX_JSON_BYTES,
    Artifact,
    Manifest,
    explain_full_disk,
    failure_file,
    find_artifact,
    forget,
    json_bytes,
    locked,
    make_artifact,
    release,
    replacing,
    sha256,
)
from samuel.config import wrong_url
from samuel.errors import MissingPartError, OperatorError, SamuelError, SettingsError

logger = logging.getLogger(__name__)

READERS = 16  # manifests that are read at the same time
FAILED = "failed.json"

Answer = TypeVar("Answer")


class RemoteFolder:
    """Files by relative names with `/`; the file system's own configuration holds the credentials.

    What a file system could not do, having tried again as that of a cloud does, is an OperatorError of each
    method.
    """

    def __init__(self, location: str, setting: str) -> None:
        """Connect to nothing yet.

        Raises:
            SettingsError: The URL, which `setting` gives, holds a password, or is a chain of several.
            MissingPartError: The package that its protocol needs is not installed.
        """
        if wrong := wrong_url(location):
            raise SettingsError(f"{setting} is {wrong}")
        self.location, self.setting = location, setting
        try:
            self.filesystem, root = url_to_fs(location)
        except (ImportError, ValueError) as error:  # no package; no such protocol
            raise MissingPartError(f"{location}: {error}; give a folder, or install what it needs") from error
        except Exception as error:
            raise self._unusable(error) from error
        self.root: str = root.rstrip("/")

    def sizes(self, under: str = "") -> dict[str, int]:
        """Name, relative to `under` → bytes of every file below it."""
        # By walking folders most file systems would take one that they cannot read for an empty one.
        walks = type(self.filesystem).find is AbstractFileSystem.find
        options = {"on_error": "raise"} if walks else {}
        top = f"{self.root}/{under}"

        def ask() -> dict[str, Any]:
            self.filesystem.invalidate_cache()
            # Not `ls`: where there is nothing, that of s3fs lists all that lies beside it.
            return self.filesystem.find(top, detail=True, **options)

        return {name[len(top) :].lstrip("/"): about["size"] for name, about in self._ask(ask, {}).items()}

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none."""
        return self._ask(lambda: self.filesystem.cat_file(f"{self.root}/{name}"), None)

    def put(self, content: bytes, name: str) -> None:
        """Have a file with this content there in place of what has the name."""
        target = f"{self.root}/{name}"

        def ask() -> bool:
            if isinstance(self.filesystem, LocalFileSystem):
                with replacing(Path(target)) as temporary:  # fsspec would show a file that is not whole yet
                    temporary.write_bytes(content)
            else:
                self.filesystem.pipe_file(target, content)
            return True

        if not self._ask(ask, False):  # a place that cannot be written into is not merely empty
            raise self._unusable(FileNotFoundError(target))

    def get(self, name: str, target: Path) -> bool:
        """Copy a file here; False where there is none."""

        def ask() -> bool:
            with explain_full_disk(target.parent, "free some space, and start the run again"):
                self.filesystem.get_file(f"{self.root}/{name}", str(target))
            return True

        return self._ask(ask, False)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        for name in names:
            self._ask(lambda name=name: self.filesystem.rm_file(f"{self.root}/{name}"), None)

    def _ask(self, ask: Callable[[], Answer], where_absent: Answer) -> Answer:
        try:
            return ask()
        except FileNotFoundError:
            return where_absent
        except SamuelError:
            raise
        except Exception as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> OperatorError:
        # An address in an error may be signed: what follows the question mark then opens the door.
        reason = re.sub(r"[?]\S*", "?…", f"{type(error).__name__}: {error}")
        remedy = f"check {self.setting}, the network, the credentials and the room there, then start again"
        return OperatorError(f"{self.location} cannot be used ({reason}); {remedy}. What was done stays")


FORGOTTEN = json_bytes({"forgotten": True})
"""In the place of a manifest: machines that have the artifact as released must not go on believing it."""
GONE = "removed since this run saw it, as by one with other settings of retention; start this one again"


class Store:
    """Artifacts of songs in the data folder `root` and, where `url` is given, in a store of many machines.

    With a URL each method may raise an OperatorError that says what of the store cannot be used.
    """

    def __init__(self, root: Path, url: str | None = None) -> None:
        """Connect to nothing yet; a `url` that cannot be one of a store raises as `RemoteFolder` does."""
        self.root = root
        self.remote = RemoteFolder(url, "settings.store") if url else None

    def find(self, folder: Path) -> Artifact | None:
        """The artifact that belongs at `folder`; its files may still lie in the store alone.

        What was made here and is not in the store, as after a kill, is published. What others released is
        released.
        """
        here = find_artifact(folder)
        if self.remote is None:
            return here
        sizes = self.remote.sizes(_key(folder))
        if here and not here.released and MANIFEST in sizes and _whole(here, sizes):
            return here
        there = self._published(folder, sizes)
        if here is None:
            self._learn_failure(folder, sizes)
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
        """Every artifact that belongs into the folder of a stage; what the store says of one comes first."""
        there = dict[Path, dict[str, int]]()
        for name, size in self.remote.sizes(stage.name).items() if self.remote else ():
            key, _, file = name.partition("/")
            there.setdefault(stage / key, {})[file] = size
        published = set[Path]()
        with ThreadPoolExecutor(READERS) as readers:
            for artifact in filter(None, readers.map(self._published, there, there.values())):
                published.add(artifact.folder)
                yield artifact
        for folder in stage.glob("[!.]*/"):
            artifact = None if folder in published else find_artifact(folder)
            if artifact and not (artifact.released and MANIFEST in there.get(folder, {})):
                yield artifact

    def fetch(self, artifact: Artifact) -> Artifact:
        """The artifact, which another machine may have made, with its files on this machine.

        Raises:
            OperatorError: They are gone, or damaged.
        """
        folder = self.root / _key(artifact.folder)
        with locked(failure_file(folder)):  # what one thread has fetched another must not take from it
            for place in dict.fromkeys((artifact.folder, folder)):
                here = find_artifact(place)
                if here and not here.released and here.sha256 == artifact.sha256:
                    return here
            remote = self.remote
            if remote is None:
                raise OperatorError(f"{artifact.folder}: {GONE}")

            def download(target: Path) -> dict[str, Any]:
                for name, expected in artifact.sha256.items():
                    there = f"{_key(folder)}/{_object(artifact, name)}"
                    if not remote.get(there, target / name) or sha256(target / name) != expected:
                        logger.warning("%s/%s: gone, or damaged", remote.location, there)
                        remote.remove([there])  # so that it is published, or made, again
                        raise OperatorError(f"{artifact.path(name)}: at {remote.location} damaged, or {GONE}")
                return artifact.record

            self._learn_failure(folder, remote.sizes(_key(folder)))
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
            there = self.remote.sizes(_key(folder))
            for name in () if here.released else here.sha256:
                if there.get(_object(here, name)) != here.sizes[name]:
                    self.remote.put(here.path(name).read_bytes(), f"{_key(folder)}/{_object(here, name)}")
            self.remote.put(here.path(MANIFEST).read_bytes(), f"{_key(folder)}/{MANIFEST}")

    def publish_failure(self, folder: Path) -> None:
        """Have other machines know how making the artifact at `folder` failed."""
        if self.remote:
            self.remote.put(failure_file(folder).read_bytes(), f"{_key(folder)}/{FAILED}")

    def release(self, folder: Path) -> None:
        """Remove the artifact's files, not its manifest, everywhere; others follow when they next look."""
        key = _key(folder)
        release(self.root / key)
        if self.remote is None:
            return
        sizes = self.remote.sizes(key)
        files = [f"{key}/{name}" for name in sizes if name not in (MANIFEST, FAILED)]
        if files and self._published(folder, sizes):
            # First the word, then the deed, as on this machine.
            manifest = json.loads(self.remote.read(f"{key}/{MANIFEST}") or b"{}") | {"released": True}
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
            if artifact.released or _whole(artifact, sizes):
                return artifact
        if content != FORGOTTEN:
            logger.warning("%s/%s: damaged; made again", self.remote.location, _key(folder))
        return None

    def _learn_failure(self, folder: Path, sizes: Mapping[str, int]) -> None:
        """Remember here what failed on another machine, where that is more attempts."""
        if not self.remote or not 0 < sizes.get(FAILED, 0) <= MAX_JSON_BYTES:
            return

        def attempts(failure: bytes) -> int:
            try:
                return int(json.loads(failure)["attempts"])
            except (ValueError, KeyError, TypeError):  # none, or damaged
                return 0

        content, path = self.remote.read(f"{_key(folder)}/{FAILED}") or b"", failure_file(folder)
        if attempts(content) > attempts(path.read_bytes() if path.exists() else b""):
            with replacing(path) as temporary:
                temporary.write_bytes(content)


def _key(folder: Path) -> str:
    """The name of an artifact in the store, whatever data folder a machine has."""
    return f"{folder.parent.name}/{folder.name}"


def _object(artifact: Artifact, name: str) -> str:
    """The name in the store, within the artifact, of one of its files."""
    return f"{artifact.sha256[name]}{Path(name).suffix}"


def _whole(artifact: Artifact, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(_object(artifact, name)) == size for name, size in artifact.sizes.items())
