"""Settings, files and states of runs that several tests look at."""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from samuel.config import Settings
from tests.popdb.latents import small_settings

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 300
PASSWORD = "somebody:a-word-that-nobody-else-writes"


def folder_settings(root: Path, songs: Path, **sections: Any) -> Settings:
    return small_settings(root, songs={"source": "folder", "path": songs}, **sections)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def task_states(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Task name → state name of what ended since the last look, as Prefect says: its server may be slow."""
    ended = [(record, re.match(r"Finished in state (\w+)", record.getMessage())) for record in caplog.records]
    states = {
        vars(record)["task_run_name"]: found[1] for record, found in ended if found and "task" in record.name
    }
    caplog.clear()
    return states


def latest_artifacts() -> dict[str, Any]:
    """Key → the newest artifact of each key; a server that tests share has many older ones."""
    with get_client(sync_client=True) as client:
        return {found.key: found for found in client.read_latest_artifacts() if found.key}


def wait_for(condition: Callable[[], Any], told: Callable[[], object] = str, pause_s: float = 0.05) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, told()
        time.sleep(pause_s)
    return found
