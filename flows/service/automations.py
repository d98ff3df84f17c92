"""Turns flow runs that have fallen silent into Crashed, by an automation of the server.

A flow run sends a heartbeat every half minute. When its process is killed together with its worker, or it has
no worker, nobody tells the server, and it would be shown as running for ever.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

NAME = "samuel: runs without heartbeat"
# A server that is away for a minute hears of a living run within 60 s + 15 s to boot + twice the half minute
# between heartbeats. A run that is hit in spite of this goes on, and its last state replaces Crashed.
SILENCE = timedelta(seconds=180)
# Not the heartbeat alone: a run may die before its first, and the Running that follows the first would count
# as the sign of life after it, and end the wait.
SIGNS_OF_LIFE = {f"prefect.flow-run.{name}" for name in ("Pending", "Running", "heartbeat")}
MESSAGE = (
    "Nothing was heard of this run for {silence:.0f} s: its process was killed, or its machine went down. "
    "Start it again: what is done stays done."
)


def register_automation(silence: timedelta = SILENCE) -> None:
    """Have the server turn silent flow runs into Crashed; again is harmless.

    Args:
        silence: How long a flow run may say nothing.
    """
    wanted = silent_runs(silence)
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(NAME)
        if not found:
            client.create_automation(wanted)
        elif not _same(found[0], wanted):
            client.update_automation(found[0].id, wanted)
        for double in found[1:]:  # of two that were started at the same moment
            client.delete_automation(double.id)


def silent_runs(silence: timedelta) -> AutomationCore:
    """The definition of the automation."""
    return AutomationCore(
        name=NAME,
        description="A flow run that sends no heartbeat has died.",
        enabled=True,  # said, or an update would leave it out, which the server takes for a no
        trigger=EventTrigger(
            after=SIGNS_OF_LIFE,
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*"},  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=silent_message(silence), force=False
            )
        ],
    )


def silent_message(silence: timedelta) -> str:
    """What the state of a run says that has fallen silent."""
    return MESSAGE.format(silence=silence.total_seconds())


def _same(found: AutomationCore, wanted: AutomationCore) -> bool:
    return all(getattr(found, part) == getattr(wanted, part) for part in ("enabled", "trigger", "actions"))
