"""Settings, files and states of runs that several tests look at."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort

from samuel.config import Settings
from tests.popdb.latents import small_settings

PATIENCE_S = 300


def folder_settings(root: Path, songs: Path, **sections: Any) -> Settings:
    return small_settings(root, songs={"source": "folder", "path": songs}, **sections)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def states_of_last_run(tasks: int) -> dict[str, str]:
    """Task name → state name of the newest flow run, once the server has recorded the end of that many."""
    states: dict[str, str] = {}
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))

        def ended() -> bool:
            found = client.read_task_runs(flow_run_filter=of_run)
            states.update({task.name: task.state_name or "" for task in found})
            return len(states) >= tasks and set(states.values()) <= {"Completed", "Cached"}

        wait_for(ended, lambda: states)
    return states


def latest_artifacts() -> dict[str, str]:
    """Key → text of the newest artifact of each key; a server that tests share has many older ones."""
    with get_client(sync_client=True) as client:
        return {found.key: str(found.data) for found in client.read_latest_artifacts() if found.key}


def wait_for(condition: Callable[[], Any], told: Callable[[], object] = str, pause_s: float = 0.05) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, told()
        time.sleep(pause_s)
    return found
