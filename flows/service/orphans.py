"""Ends what the server would show as running for ever, as long as `make serve` runs.

The automation of `automations` hears of a flow run's death by its silence. Two things are left to do. Whose
silence falls into a time without a server is forgotten by the automation. And of the tasks of a flow run that
was killed the server learns nothing at all.
"""

import time
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.events.filters import (
    EventFilter,
    EventOccurredFilter,
    EventOrder,
    EventResourceFilter,
)
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.service.automations import SILENCE, register_automation, silent_message

EVERY_S = 30
SETTLED = timedelta(seconds=120)  # in which the last states of a flow run's tasks come in
CANCELLED = timedelta(seconds=45)  # Prefect itself kills after half a minute
RUN = "PREFECT__FLOW_RUN_ID"
PAGE = 200
WITHOUT_FLOW_RUN = "Its flow run ended without it. Start the flow again: what is done stays done."


def main() -> None:
    """Look through the runs every half minute, until killed."""
    register_automation()
    listening_since = looked = datetime.now(UTC)
    while True:
        if datetime.now(UTC) - looked > timedelta(seconds=3 * EVERY_S):
            listening_since = datetime.now(UTC)  # the server was away, or the machine asleep
        try:
            end_silent_flow_runs(listening_since)
            end_orphaned_task_runs()
            end_cancelled_processes()
        except (httpx.HTTPError, ObjectNotFound) as error:
            # It is away, and `make serve` starts it again; or a run was deleted under our eyes.
            print(f"the watch over silent runs looks again in {EVERY_S} s: {error}", flush=True)
            listening_since = datetime.now(UTC)
        looked = datetime.now(UTC)
        time.sleep(EVERY_S)


def end_silent_flow_runs(listening_since: datetime, silence: timedelta = SILENCE) -> int:
    """Turn flow runs of which nothing is heard any more into Crashed; how many.

    Args:
        listening_since: Since when runs that live could make themselves heard.
        silence: How long a flow run may say nothing.
    """
    deadline = datetime.now(UTC) - silence
    if listening_since > deadline:
        return 0
    with get_client(sync_client=True) as client:
        silent = [
            run for run in _unfinished_flow_runs(client) if _last_heard(client, run, silence) < deadline
        ]
        for run in silent:
            client.set_flow_run_state(run.id, Crashed(message=silent_message(silence)))
    return len(silent)


def end_orphaned_task_runs(settled: timedelta = SETTLED) -> int:
    """Turn task runs that have not ended, though their flow run has, into Crashed; how many.

    Args:
        settled: How long ago their flow run must have ended.
    """
    before = datetime.now(UTC) - settled
    ended = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
        end_time=FlowRunFilterEndTime(before_=before),  # type: ignore[arg-type]
    )
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(
            type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED])
        )
    )
    with get_client(sync_client=True) as client:
        orphans = client.read_task_runs(flow_run_filter=ended, task_run_filter=unfinished, limit=PAGE)
        for task in orphans:
            client.set_task_run_state(task.id, Crashed(message=WITHOUT_FLOW_RUN), force=True)
    return len(orphans)


def end_cancelled_processes(settled: timedelta = CANCELLED) -> int:
    """End the processes of this machine whose flow run was cancelled, and who have not heard of it; how many.

    A worker that could not reach the server for a while stops listening for cancellations. A run that was
    started by hand has no worker, and is ended by hand.

    Args:
        settled: How long ago it was cancelled; a process that heard it is gone by then.
    """
    processes = _processes_of_runs()
    if not processes:
        return 0
    before = datetime.now(UTC) - settled
    of_these = FlowRunFilter(
        id=FlowRunFilterId(any_=list(processes)),
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.CANCELLING, StateType.CANCELLED])
        ),
    )
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=of_these)
    late = [p for run in runs if run.state and run.state.timestamp < before for p in processes[run.id]]
    for process in late:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    return len(late)


def _processes_of_runs() -> dict[UUID, list[psutil.Process]]:
    """The processes of this user that run a flow, by flow run; Prefect tells them which by a variable."""
    found: dict[UUID, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError):
            if run := process.environ().get(RUN):
                found[UUID(run)].append(process)
    return found


def _unfinished_flow_runs(client: SyncPrefectClient) -> list[FlowRun]:
    running = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=running)), limit=PAGE
    )


def _last_heard(client: SyncPrefectClient, run: FlowRun, silence: timedelta) -> datetime:
    """When the last event of a flow run happened: a heartbeat or a change of its state."""
    heard = client.read_events(
        EventFilter(
            occurred=EventOccurredFilter(since=datetime.now(UTC) - silence),  # type: ignore[arg-type]
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
            order=EventOrder.DESC,
        ),
        limit=1,
    )
    changed = run.state.timestamp if run.state else datetime.min.replace(tzinfo=UTC)
    return max([changed, *(event.occurred for event in heard.events)])


if __name__ == "__main__":
    main()
