"""What all flows share: their parameters, groups of songs, retries, limits, and what shows as Cached."""

import logging
import sys
from collections import UserList
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from queue import SimpleQueue
from typing import Annotated, Any, TypeVar, cast

import httpx
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import GetJsonSchemaHandler, GetPydanticSchema
from tqdm import tqdm

from flows.runner import Workers
from samuel.config import PRESETS, Preset, Settings, parse, without_secrets
from samuel.device import resolve_device
from samuel.errors import SettingsError, StoppedError
from samuel.popdb.parts import Parts
from samuel.popdb.status import Outcome

Item = TypeVar("Item")
Data = TypeVar("Data")

# The parameters of a flow: a preset, and settings that differ from it.


def form_over_presets(_: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """Make the JSON schema of `Settings` without defaults: a form must not send those of one preset."""
    schema = handler(Settings.__pydantic_core_schema__)
    tree = handler.resolve_ref_schema(schema)
    tree["properties"].pop("preset", None)

    def describe_defaults(section: Any, paper: Mapping[str, Any]) -> None:
        for name, field in section["properties"].items():
            values = {"demo": field.pop("default", None), "paper": paper.get(name)}
            if "$ref" in field:
                describe_defaults(handler.resolve_ref_schema(field), paper.get(name, {}))
                continue
            for preset, value in values.items():
                if value is not None:
                    field["description"] += f"{'; ' if preset == 'demo' else ', '}{preset}: "
                    field["description"] += f"{value:,}" if isinstance(value, int) else f"{value}"

    describe_defaults(tree, PRESETS["paper"])
    return schema


Overrides = Annotated[
    dict[str, Any] | Settings, GetPydanticSchema(get_pydantic_json_schema=form_over_presets)
]
"""Some of the tree of `Settings` as plain values, or all of it."""
AS_PRESET: Overrides = {}


def chosen(preset: Preset, settings: Overrides) -> Settings:
    """Return the settings of a preset, with what is given in place of its own."""
    if isinstance(settings, Settings):
        settings = settings.model_dump(mode="json", exclude={"preset"})
    return parse({"preset": preset, **settings})


def run_name(template: str) -> Callable[[], str]:
    """Make what names the runs of a flow by their settings, as in `{training.steps}-steps`."""

    def name() -> str:
        with suppress(SettingsError):  # which the flow itself is about to raise
            return template.format(**dict(chosen(**flow_run.parameters)))
        return "wrong-settings"

    return name


# Songs, in the groups that one task takes.


class Group(UserList[Item]):
    """Songs, or what became of them, as one thing; no `list`.

    Prefect looks for futures in every field of every element of a list that a task is given or gives back:
    more than half of the time of a run that finds everything done.
    """


SONGS_PER_TASK = 32  # of a list that is not long: Demucs takes minutes on a GPU, an hour or two on a CPU
LEAST_TASKS = 4  # of a stage: a dozen songs still make four tasks, so that the stages overlap
MOST_TASKS = 66  # of a stage: with 200 in all, the UI's page of a run takes 2 s, and with 660 more than 3
MOST_TASKS_IN_LITTLE_SPACE = 220  # where audio is removed: it lies there until its group is encoded
FIRST_TASKS = 8  # of a long list: they are small all the same, so that there is soon something to see


def groups(songs: Sequence[Item], settings: Settings) -> list[tuple[str, Group[Item]]]:
    """Split songs into the groups that one task of a stage takes, each with its name, such as `songs 1-3`."""
    most = MOST_TASKS_IN_LITTLE_SPACE if settings.retention.audio == "remove" else MOST_TASKS
    size = max(1, min(SONGS_PER_TASK, -(-len(songs) // LEAST_TASKS)))
    first = FIRST_TASKS if len(songs) > size * most else 0
    then = max(size, -(-(len(songs) - first * size) // (most - first)))
    starts = [*range(0, first * size, size), *range(first * size, len(songs), then), len(songs)]
    return [(f"songs {start + 1}-{end}", Group(songs[start:end])) for start, end in pairwise(starts)]


def submit(
    run: Workers, stages: Sequence[Any], parts: Parts, songs: Sequence[tuple[str, Group[Any]]]
) -> "list[list[PrefectFuture[Group[Outcome]]]]":
    """Submit every stage of every group, each given what the one before it returns; the futures by stage.

    All but the first compute. A task waits for the stage before it in a worker's place. Submitted group by
    group, all workers would wait for one; in this order a group downloads while the one before is separated.
    """
    futures: list[list[Any]] = [[] for _ in stages]
    for tick in range(len(stages) + len(songs) - 1):
        for number, stage in enumerate(stages):
            if 0 <= (place := tick - number) < len(songs):
                name, group = songs[place]
                given = futures[number - 1][place] if number else group
                future = run.submit(stage, computes=number > 0, songs=given, parts=parts, group=name)
                futures[number].append(future)
    return futures


def gather(
    stages: "list[list[PrefectFuture[Group[Outcome]]]]", tell: Callable[[int, Sequence[Outcome]], None]
) -> list[Outcome]:
    """Return the outcomes of the last stage, in the order of the groups.

    A stage raises only what concerns all songs (a full disk, a bot check, a bug). The first to do so ends the
    flow with its own error; others only say that they never ran, or were stopped. `tell` is given the number
    of a stage and what became of some songs there, as they come. `stages`, of `submit`, is emptied: a future
    keeps what its task brought, and so would Prefect's own `as_completed`.
    """
    where = {f.task_run_id: (s, p) for s, stage in enumerate(stages) for p, f in enumerate(stage)}
    final, ended = len(stages) - 1, SimpleQueue[PrefectFuture[Group[Outcome]]]()
    while stages:
        for future in stages.pop():
            future.add_done_callback(ended.put)
    followed: Exception | None = None
    last: dict[int, Group[Outcome]] = {}
    for _ in where:
        future = ended.get()
        stage, place = where[future.task_run_id]
        try:
            outcomes = future.result()
        except (StoppedError, UnfinishedRun) as error:
            followed = followed or error
            continue
        tell(stage, outcomes)
        if stage == final:
            last[place] = outcomes
    if followed:
        raise followed
    return [outcome for place in sorted(last) for outcome in last[place]]


class WithoutSecrets(logging.Filter):
    """Takes what may be a secret in a URL out of a run's log, which Prefect keeps, tracebacks and all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, redacted."""
        if record.exc_info:
            record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


for kind in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(kind).addFilter(WithoutSecrets())


# Retries: stages remember and retry songs themselves, so that what reaches a task concerns all songs. A
# connection that broke may come back; a full disk, missing weights or a bug are shown at once.


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Return whether what a task failed by, or what that came from, is a fault of a connection."""
    error = state.data
    while isinstance(error, BaseException):
        if isinstance(error, ConnectionError | TimeoutError | httpx.TransportError):
            return True
        error = error.__cause__
    return False


# After 10, 20, 40, 80 and 160 s, and up to half as much again: a bucket may be away for five minutes.
RETRIED: dict[str, Any] = {
    "retries": 5,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
}

# Limits: how many tasks may do the same at a time, over all runs, processes and machines of a Prefect server.
# The UI shows them and who holds them, `prefect gcl update` changes them.

DOWNLOADS = "samuel-download"  # the rate limit holds within a data folder, this between several
GPU_LIMIT = "samuel-gpu"
LEASE_S = 120  # a killed holder blocks the others for so long, and a server may be away for as long


@contextmanager
def gpu_slot(settings: Settings, gpus: int = 1) -> Iterator[None]:
    """Have the GPU of this process to oneself, or its first `gpus`; a CPU is shared."""
    if resolve_device(settings.device).type != "cuda":
        yield
        return
    here = range(min(gpus, torch.cuda.device_count())) if gpus > 1 else [torch.cuda.current_device()]
    with slot(*(f"{GPU_LIMIT}-{torch.cuda.get_device_properties(number).uuid}" for number in here)):
        yield


@contextmanager
def slot(*names: str) -> Iterator[None]:
    """Hold a slot of each limit, all at once; one that is not there is created, for one holder."""
    for name in names:
        create_limit(name)
    # A server that was away must not end a task of hours: what it holds is then only warned about.
    with concurrency(list(names), lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False):
        yield


def create_limit(name: str, slots: int = 1) -> None:
    """Create a limit, unless it is there: whoever changed it knew why."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))


# What a task shows.


def bar(items: Iterable[Item], title: str, total: int | None = None) -> "tqdm[Item]":
    """Show a progress bar on a terminal; nothing where the output is a file."""
    return tqdm(items, desc=f"{title:<20}", total=total, disable=None, file=sys.stderr)


def advance(progress: "tqdm[int]", metrics: Mapping[str, Any]) -> None:
    """Move the bar of a training to the step that its metrics are of."""
    progress.update(metrics["step"] - progress.n)
    progress.set_postfix(v_mse=f"{metrics['v_mse']:.3f}", refresh=False)


def shown(data: Data, *, cached: bool, what: str) -> Data:
    """Return a task's result, as a state named Cached where nothing had to be done; the caller gets `data`.

    The files decide: Prefect's own cache would go on answering after a file is gone.
    """
    state = Completed(name="Cached", message=f"{what}: already there", data=data)
    return cast("Data", state) if cached else data


def shown_songs(outcomes: Sequence[Outcome]) -> Group[Outcome]:
    """Return the outcomes of a task, which shows as Cached when every song was done before."""
    cached = not any(outcome.did_work for outcome in outcomes)
    return shown(Group(outcomes), cached=cached, what=f"{len(outcomes)} songs")
