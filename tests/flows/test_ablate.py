import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort

from flows.ablate import ablate
from samuel.artifacts import read_json
from samuel.config import Settings
from samuel.errors import DatasetError
from samuel.popdb.writer import write_popdb
from tests.flows.artifacts import latest_artifacts
from tests.popdb.latents import encoded_song, small_settings

FITS = ["as set, seed 0", "loss_weight = snr, seed 0", "loss_weight = uniform, seed 0"]
TASKS = {"check the parts", "write the table", *(f"train {name}" for name in FITS)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("ablate")
    settings = small_settings(root, training={"steps": 2}, ablation={"factors": ["loss_weight"], "seeds": 1})
    write_popdb([encoded_song(root, name) for name in "abcd"], settings)
    return settings


def states_of_last_run() -> dict[str, str]:
    """Task name → state name, once the server has recorded the end of all tasks."""
    deadline = time.monotonic() + 60
    states: dict[str, str] = {}
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        while set(states) != TASKS or not set(states.values()) <= {"Completed", "Cached"}:
            assert time.monotonic() < deadline, states
            time.sleep(0.1)
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
            states = {task.name: task.state_name or "" for task in found}
    return states


def test_a_study_is_run_shown_and_not_run_again(server: str, settings: Settings) -> None:
    made = ablate(settings)
    assert set(states_of_last_run().values()) == {"Completed"}
    table = Path(made["table"])
    assert made["fits"] == len(FITS)
    numbers = read_json(table.with_name("ablation.json"))
    assert [fit["value"] for fit in numbers["fits"]] == [None, "snr", "uniform"]
    found = latest_artifacts()
    text = table.read_text("utf-8")
    assert found["ablation"].startswith(text.partition("![Ablations]")[0])
    assert "![Ablations](data:image/png;base64,iVBOR" in found["ablation"]

    assert ablate(settings) == made
    states = states_of_last_run()
    assert {state for name, state in states.items() if name != "check the parts"} == {"Cached"}


def test_a_study_without_a_dataset_says_what_to_run(server: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="run the flow build-popdb"):
        ablate(small_settings(tmp_path))
