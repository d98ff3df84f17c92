import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventResourceFilter
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.states import (
    Cancelling,
    Completed,
    Pending,
    Running,
)
from prefect.tasks import task

from flows.service.automations import NAME, SILENCE, register_automation
from flows.service.orphans import (
    RUN,
    end_cancelled_processes,
    end_orphaned_task_runs,
    end_silent_flow_runs,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SHORT = timedelta(seconds=1)


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@flow
def nothing() -> None:
    pass


@task
def part() -> None:
    pass


def flow_run(client: SyncPrefectClient, state: "State[None]") -> FlowRun:
    return client.create_flow_run(nothing, state=state)


def task_run(client: SyncPrefectClient, run: FlowRun, state: "State[None]") -> TaskRun:
    return client.create_task_run(part, run.id, dynamic_key=state.name or "", state=state)


def ended(client: SyncPrefectClient, run: FlowRun) -> None:
    client.set_flow_run_state(run.id, Completed(), force=True)


def within(automation: AutomationCore) -> timedelta:
    assert isinstance(automation.trigger, EventTrigger)
    return automation.trigger.within


def test_registering_again_leaves_one_automation_and_mends_it(client: SyncPrefectClient) -> None:
    register_automation()
    (first,) = client.read_automations_by_name(NAME)
    register_automation()
    assert client.read_automations_by_name(NAME) == [first]
    client.pause_automation(first.id)
    register_automation(timedelta(seconds=300))
    (changed,) = client.read_automations_by_name(NAME)
    assert changed.id == first.id
    assert changed.enabled
    assert within(changed) == timedelta(seconds=300)
    assert "300 s" in str(changed.actions)
    register_automation()
    assert within(client.read_automations_by_name(NAME)[0]) == SILENCE


@pytest.mark.parametrize("state", [Running(), Pending()])
def test_a_silent_run_is_crashed_and_told_what_to_do(client: SyncPrefectClient, state: "State[None]") -> None:
    run = flow_run(client, state)
    time.sleep(1.5)
    end_silent_flow_runs(LONG_AGO, SHORT)
    found = client.read_flow_run(run.id).state
    assert found
    assert found.is_crashed()
    assert "Start it again: what is done stays done" in str(found.message)


def test_a_run_that_is_heard_lives(client: SyncPrefectClient) -> None:
    heard, silent = flow_run(client, Running()), flow_run(client, Running())
    time.sleep(12)
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{heard.id}"})
    wait_for_event(client, heard.id)
    end_silent_flow_runs(LONG_AGO, timedelta(seconds=12))
    states = [client.read_flow_run(run.id).state_name for run in (heard, silent)]
    ended(client, heard)
    assert states == ["Running", "Crashed"]


def wait_for_event(client: SyncPrefectClient, run: UUID) -> None:
    resource = EventFilter(resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]))
    deadline = time.monotonic() + 30
    while not any(
        event.event.endswith("heartbeat") for event in client.read_events(resource, limit=9).events
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nobody_is_silent_before_there_was_time_to_speak(client: SyncPrefectClient) -> None:
    run = flow_run(client, Running())
    time.sleep(1.5)
    assert end_silent_flow_runs(datetime.now(UTC), SHORT) == 0
    assert client.read_flow_run(run.id).state_name == "Running"
    ended(client, run)


def test_tasks_end_with_their_flow_run(client: SyncPrefectClient) -> None:
    over, alive = flow_run(client, Running()), flow_run(client, Running())
    tasks = [task_run(client, run, state) for run in (over, alive) for state in (Running(), Pending())]
    done = task_run(client, over, Completed())
    ended(client, over)
    end_orphaned_task_runs()
    assert client.read_task_run(tasks[0].id).state_name == "Running"  # its last words may be on their way
    time.sleep(1.5)
    end_orphaned_task_runs(SHORT)
    names = [client.read_task_run(run.id).state_name for run in (*tasks, done)]
    ended(client, alive)
    assert names == ["Crashed", "Crashed", "Running", "Pending", "Completed"]
    assert "ended without it" in str(client.read_task_run(tasks[0].id).state)


def test_a_process_that_did_not_hear_of_its_cancellation_is_ended(client: SyncPrefectClient) -> None:
    cancelled, alive = flow_run(client, Running()), flow_run(client, Running())
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    deaf, other = (
        subprocess.Popen(command, env={**os.environ, RUN: str(run.id)}) for run in (cancelled, alive)
    )
    try:
        client.set_flow_run_state(cancelled.id, Cancelling(), force=True)
        assert end_cancelled_processes() == 0  # it may be about to end by itself
        time.sleep(1.5)
        assert end_cancelled_processes(SHORT) == 1
        assert deaf.wait(timeout=30) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (deaf, other):
            process.kill()
            process.wait()
        ended(client, alive)
