"""Where the tasks of a flow run: in threads of its own process, or on the workers of a Dask cluster."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.credentials import held, hold
from samuel.config import RunnerConfig, Settings
from samuel.device import resolve_device
from samuel.errors import MissingPartError, StoppedError
from samuel.popdb.parts import Parts

# Lets the tasks of a flow run know that it ends, where they are threads: nothing else can stop a thread.


Told = TypeVar("Told")

_ending: set[str] = set()


@contextmanager
def ending() -> Iterator[None]:
    """Within, whatever ends the run early (an error, a cancellation, SIGTERM) is told to its tasks."""
    run = str(flow_run.id)
    begin(run)
    with ExitStack() as early:
        early.callback(end, run)
        yield
        early.pop_all()


def begin(run: str) -> None:
    """Forget that a flow run was to end: it is tried again."""
    _ending.discard(run)


def end(run: str) -> None:
    """Tell the tasks of a flow run that this process has."""
    _ending.add(run)


def asked_to_end() -> Callable[[], bool]:
    """What tells a task whether its run is ending; cheap enough for every step."""
    run = str(flow_run.id)
    return lambda: run in _ending


def until_ended(tell: Callable[[Told], object]) -> Callable[[Told], None]:
    """What tells, and then lets nothing more begin once the run is to end; to be made within a task.

    Raises:
        StoppedError: It is to end.
    """
    ends = asked_to_end()

    def told(what: Told) -> None:
        tell(what)
        if ends():
            raise StoppedError("the run has ended; started again, it goes on where it was")

    return told


if TYPE_CHECKING:  # a second of imports, for the few who have a cluster
    from prefect_dask.client import PrefectDaskClient
    from prefect_dask.task_runners import DaskTaskRunner

GPU = "GPU"  # the resource that a Dask worker with a GPU offers, as Dask's own guides name it
CONNECT_S = 20


class Workers(Protocol):
    """Those who run the tasks of a flow."""

    def submit(
        self, task: Task[..., Any], *, computes: bool = False, **parameters: Any
    ) -> PrefectFuture[Any]:
        """Have a task run; a future among `parameters` is waited for.

        Args:
            task: The task.
            computes: It wants a GPU where there is one.
            parameters: By name.
        """
        ...

    def everywhere(self, work: Callable[[], object]) -> None:
        """Do something in every process that runs tasks, and in this one."""
        ...


class ThreadWorkers:
    """The threads of the flow's process."""

    def __init__(self, runner: ThreadPoolTaskRunner[Any]) -> None:
        self._runner = runner

    def submit(
        self, task: Task[..., Any], *, computes: bool = False, **parameters: Any
    ) -> PrefectFuture[Any]:
        """See `Workers`."""
        del computes  # all threads have what the process has
        return self._runner.submit(task, parameters)

    def everywhere(self, work: Callable[[], object]) -> None:
        """See `Workers`."""
        work()


class DaskWorkers:
    """The workers of a Dask cluster.

    Args:
        client: Connected already.
        gpu: Whether tasks that compute may only run where a worker offers a GPU.
    """

    def __init__(self, client: "PrefectDaskClient", *, gpu: bool) -> None:
        self._client, self._gpu = client, gpu

    def submit(
        self, task: Task[..., Any], *, computes: bool = False, **parameters: Any
    ) -> PrefectFuture[Any]:
        """See `Workers`."""
        from prefect_dask.task_runners import PrefectDaskFuture

        given = {name: getattr(value, "wrapped_future", value) for name, value in parameters.items()}
        # The runner's own `submit` cannot ask for resources.
        resources = {GPU: 1} if computes and self._gpu else None
        future: Any = self._client.submit(task, parameters=given, resources=resources, return_type="state")
        return PrefectDaskFuture(wrapped_future=future, task_run_id=future.task_run_id)

    def everywhere(self, work: Callable[[], object]) -> None:
        """See `Workers`; `work` is pickled."""
        work()
        self._client.run(work)


def parts_here(parts: Parts) -> Parts:
    """The parts that the Dask worker running this task loads once for all its tasks; in a thread, `parts`."""
    try:
        worker = sys.modules["distributed"].get_worker()
    except (KeyError, ValueError):  # no Dask at all, or not one of its workers
        return parts
    held = getattr(worker, "samuel_parts", None)
    if held is None or held.settings != parts.settings:
        worker.samuel_parts = held = parts
    return held


@contextmanager
def workers(settings: Settings, threads: int) -> Iterator[Workers]:
    """Workers as `settings.runner` wants them, until the block ends.

    Args:
        settings: The tree.
        threads: How many tasks at a time, where they are threads.

    Raises:
        MissingPartError: No Dask scheduler answers; no worker has the GPU that `settings.device` names.
    """
    if settings.runner.kind == "threads":
        with ThreadPoolTaskRunner(max_workers=threads) as runner:
            yield ThreadWorkers(runner)
        return
    from prefect_dask.task_runners import DaskTaskRunner

    with DaskTaskRunner(**_cluster(settings)) as runner:
        client = connect(runner, settings.runner)
        client.run(hold, held())
        client.run(begin, run := str(flow_run.id))
        with ExitStack() as early:
            early.callback(_tell_the_end, client, run)  # Dask ends no task that has begun
            yield DaskWorkers(client, gpu=wants_gpu(offers(client), settings))
            early.pop_all()


def _tell_the_end(client: "PrefectDaskClient", run: str) -> None:
    with suppress(OSError):  # a cluster that is gone is what ended it, and has its own words
        client.run(end, run, on_error="ignore")


def _cluster(settings: Settings) -> dict[str, Any]:
    config, patience = settings.runner, {"timeout": CONNECT_S}
    if config.address:
        return {"address": config.address, "client_kwargs": patience}
    here = {
        "n_workers": config.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
        "env": {
            "PREFECT_PLUGINS_ENABLED": "false"
        },  # those of the command line, which fail in a worker's loop
        "resources": {GPU: 1} if resolve_device(settings.device).type == "cuda" else {},
    }
    return {"cluster_kwargs": here, "client_kwargs": patience}


def connect(runner: "DaskTaskRunner", config: RunnerConfig) -> "PrefectDaskClient":
    """Reach the scheduler now, and not with the first task.

    Raises:
        MissingPartError: It does not answer.
    """
    try:
        return runner.client
    except OSError as error:  # a refused connection, a timeout, an unknown host
        if not config.address:
            raise
        raise MissingPartError(
            f"runner.address: no Dask scheduler answers at {config.address} ({type(error).__name__}); start"
            " one with `dask scheduler`, correct the address, or set runner.kind = 'threads'"
        ) from error


def offers(client: "PrefectDaskClient") -> list[dict[str, float]]:
    """The resources that each worker of a cluster offers."""
    return [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]


def wants_gpu(offered: list[dict[str, float]], settings: Settings) -> bool:
    """Whether tasks that compute are to wait for a worker that offers a GPU.

    Raises:
        MissingPartError: The settings name a GPU, and no worker offers one.
    """
    found = any(resources.get(GPU, 0) >= 1 for resources in offered)
    if settings.device == "cuda" and not found:
        raise MissingPartError(
            f"device = 'cuda', and none of {len(offered)} Dask workers offers a GPU; start those that have"
            f" one with `dask worker … --resources {GPU}=1`, or set device = 'auto'"
        )
    return found and settings.device in ("auto", "cuda")
