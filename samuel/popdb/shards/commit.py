"""The one step from an old dataset to a new one.

`dataset.json` names the size and digest of every other file. New files are first put into `.pending`, its
`dataset.json` last: from then on the new dataset is the dataset, and its files are moved to their names. A
writer that is killed before that moment leaves the old dataset, one that is killed after it the new one:
readers look for each file in `.pending` and under its name, and take the one whose digest is right.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from samuel.errors import DatasetError, NewerFormatError
from samuel.files import as_json, sha256
from samuel.popdb.shards.folder import PENDING, Folder
from samuel.popdb.shards.manifest import AGAIN, BESIDE, FORMAT_VERSION, MANIFEST


@dataclass(frozen=True)
class State:
    """What a folder holds.

    Attributes:
        folder: Where it is.
        info: The content of `dataset.json`.
        pending: True where a commit was interrupted before every file had its name.
    """

    folder: Folder
    info: dict[str, Any] = field(repr=False)
    pending: bool

    def read(self, name: str) -> bytes:
        """The content of a file beside the shards.

        Raises:
            DatasetError: It is missing, or not the one that `dataset.json` names.
        """
        digest = self.info["files"][name]["sha256"]
        found = False
        for place in (f"{PENDING}/{name}", name):
            content = self.folder.read(place)
            found = found or content is not None
            if content is not None and hashlib.sha256(content).hexdigest() == digest:
                return content
        fault = "its bytes are not those dataset.json names" if found else "missing"
        replaced = state_of(self.folder).info != self.info
        remedy = "the dataset was replaced meanwhile, open it again" if replaced else AGAIN
        raise DatasetError(f"{self.folder.location}: {name}: {fault}; {remedy}")


def state_of(folder: Folder) -> State:
    """What the folder holds now.

    Raises:
        DatasetError: No dataset, a damaged one, or one of another format.
    """
    for place in (f"{PENDING}/{MANIFEST}", MANIFEST):
        content = folder.read(place)
        if content is not None:
            return State(folder, _parse(folder, content), pending=place != MANIFEST)
    remedy = "run the flow build-popdb, or samuel import-popdb"
    raise DatasetError(f"{folder.location}: no dataset here (dataset.json is missing); {remedy}")


def commit(folder: Folder, info: dict[str, Any]) -> None:
    """Make the files in `folder.workspace`, with `info` as `dataset.json`, those of the dataset."""
    for name in BESIDE:
        if (path := folder.workspace / name).is_file():
            folder.put(path, f"{PENDING}/{name}", info["files"][name]["sha256"])
    manifest = folder.workspace / MANIFEST
    manifest.write_bytes(as_json(info))
    folder.put(manifest, f"{PENDING}/{MANIFEST}", sha256(manifest))
    settle(folder)


def unchanged(folder: Folder, info: dict[str, Any]) -> bool:
    """Forget the files in `folder.workspace` that are in place; True where all are, and `info` with them."""
    changed = False
    for name in BESIDE:
        content = folder.read(name)
        if content is not None and hashlib.sha256(content).hexdigest() == info["files"][name]["sha256"]:
            (folder.workspace / name).unlink()
        else:
            changed = True
    return folder.read(MANIFEST) == as_json(info) and not changed


def settle(folder: Folder) -> None:
    """Finish a commit that was interrupted, or remove what one left that never was."""
    manifest = f"{PENDING}/{MANIFEST}"
    own = [*(f"{PENDING}/{name}" for name in BESIDE), manifest]
    left = sorted(folder.sizes(PENDING).keys() & own)
    if manifest not in left:
        folder.remove(left)
        return
    for name in [*(name for name in left if name != manifest), manifest]:
        folder.move(name, name.removeprefix(f"{PENDING}/"))


def _parse(folder: Folder, content: bytes) -> dict[str, Any]:
    try:
        info = json.loads(content)
        found = info["format_version"]
        older = found < FORMAT_VERSION
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, error) from error
    if found != FORMAT_VERSION:
        kind, remedy = (DatasetError, AGAIN) if older else (NewerFormatError, "update samuel")
        raise kind(f"{folder.location}: format {found}, this version reads {FORMAT_VERSION}; {remedy}")
    return info


def damaged(folder: Folder, error: Exception) -> DatasetError:
    """What is said of a dataset that cannot be read."""
    reason = f"{type(error).__name__}: {error}"
    return DatasetError(f"{folder.location}: the dataset is damaged ({reason}); {AGAIN}")
