"""A folder that is exported whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samuel.errors import InputError
from samuel.files import fsync, locked, read_json, temporary_folder, write_json
from samuel.popdb.shards.folder import LocalFolder, disk_full_told


def export_folder(folder: Path, name: str, stated: dict[str, Any], make: Callable[[Path], object]) -> Path:
    """Have `make` fill a folder; where it stands already and states the same, nothing is done.

    Args:
        folder: Where it goes.
        name: Of the JSON file in it that states what it holds.
        stated: What it is to hold.
        make: Writes everything else into the folder that it is given.

    Raises:
        InputError: Something else is there, or a file where the folder would lie.
        OperatorError: The disk is full.
    """
    place = folder.expanduser().resolve()
    _require_folder(place.parent)
    with locked(place):
        if _states(place / name, stated):
            return folder
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(f"{folder}: something else is there; give a folder that is not there yet")
        temporary = temporary_folder(place)
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        try:
            with disk_full_told(LocalFolder(folder)):
                temporary.mkdir(parents=True)
                make(temporary)
                write_json(temporary / name, stated)
                os.sync()  # one call for tens of thousands of files
            temporary.replace(place)
            fsync(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _require_folder(path: Path) -> None:
    """Where there is no folder yet, one can be made."""
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; give a folder")


def _states(path: Path, stated: dict[str, Any]) -> bool:
    try:
        return read_json(path) == stated
    except (OSError, ValueError):
        return False
