"""`dataset.json`: is it one, and do the files that it names exist as it says?"""

from typing import Any

from pydantic import ValidationError

from samuel.errors import DatasetError
from samuel.popdb.shards.commit import State
from samuel.popdb.shards.folder import PENDING
from samuel.popdb.shards.index import INDEX
from samuel.popdb.shards.manifest import AGAIN, BESIDE, MANIFEST, SONGS, Manifest
from samuel.popdb.verify.fault import Fault

NEEDED = (INDEX, SONGS)  # what is in them is nowhere else in the dataset


def manifest_faults(info: Any) -> list[Fault]:
    """What is wrong with the content of `dataset.json`."""
    try:
        Manifest.model_validate(info)
    except ValidationError as error:
        return [
            Fault(f"{MANIFEST}: {_where(fault['loc'])}{fault['msg']}; {AGAIN}", final=True)
            for fault in error.errors(include_url=False)
        ]
    return []


def pending_faults(state: State) -> list[Fault]:
    """What a writer left that was stopped while it made its files those of the dataset."""
    if state.pending:
        return [Fault("a write that was interrupted, or is going on: its files are whole, not yet in place")]
    if left := sorted(state.folder.sizes(PENDING)):
        return [Fault(f"{PENDING}: {len(left)} files left over by a write that was stopped, or is going on")]
    return []


def read_beside(state: State) -> tuple[dict[str, bytes], list[Fault]]:
    """The files beside the shards that have their digest, and what is wrong with the others."""
    contents: dict[str, bytes] = {}
    faults: list[Fault] = []
    for name in BESIDE:
        try:
            contents[name] = state.read(name)
            if len(contents[name]) != state.info["files"][name]["bytes"]:
                faults.append(Fault(f"{name}: {len(contents[name])} bytes, {MANIFEST} names another size"))
        except DatasetError as error:
            reason = str(error).removeprefix(f"{state.folder.location}: ").rpartition("; ")[0]
            final = name in NEEDED
            faults.append(Fault(f"{reason}; {AGAIN}" if final else reason, final=final))
        except OSError as error:
            faults.append(unreadable(name, error))
    return contents, faults


def unreadable(name: str, error: OSError) -> Fault:
    """What is said of a file that the system does not let us read; it may be whole."""
    reason = f"cannot be read ({type(error).__name__}: {error.strerror or error})"
    return Fault(f"{name}: {reason}; make it readable, or delete it where the disk is failing", final=True)


def _where(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:80] for part in place) + ": " if place else ""
