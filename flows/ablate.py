"""ablate: one choice varied at a time, several seeds, one table."""

from collections.abc import Sequence
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows import artifacts
from flows.runner import ending, until_ended, workers
from flows.tasks import RETRIED, bar, gpu_slot, shown
from flows.train_and_eval import advance
from samuel.ablation import (
    PlannedFit,
    Result,
    planned_fits,
    run_fit,
    write_table,
)
from samuel.artifacts import Artifact
from samuel.config import Settings, demo
from samuel.device import resolve_device
from samuel.doctor import require
from samuel.popdb.accounts import counted
from samuel.popdb.dataset import Popdb, open_popdb


@flow(
    name="ablate",
    flow_run_name="{settings.ablation.seeds}-seeds-{settings.training.steps}-steps",
)
def ablate(settings: Settings = demo()) -> dict[str, Any]:  # noqa: B008  (frozen, and the UI's form)
    """Compare choices that the papers leave open, on the same data and over the same steps.

    Args:
        settings: Where the dataset lies, what the variants start from, what is varied; see `samuel.config`.
    """
    popdb = open_popdb(settings.popdb_path)
    with workers(settings, threads=1) as run, ending():
        run.submit(examine, computes=True, settings=settings).result()
        plan = planned_fits(settings)
        fits = [run.submit(train, computes=True, popdb=popdb, planned=fit) for fit in plan]
        results = [fit.result() for fit in artifacts.Share("fits", "Fits trained").over(fits, len(fits))]
        table = run.submit(tabulate, popdb=popdb, results=results, settings=settings).result()
    artifacts.show_ablation(table)
    made = {"fits": len(results), "table": str(table.path("ablation.md"))}
    return cast("dict[str, Any]", Completed(message=summary(results), data=made))


def summary(results: Sequence[Result]) -> str:
    """What a run ends with, in one line."""
    failed = sum(bool(result.message) for result in results)
    return counted(len(results), "fit") + (f", {failed:,} without a result" if failed else "")


@task(task_run_name="check the parts", cache_policy=NO_CACHE)
def examine(settings: Settings) -> None:
    """Stop before the long work where something is missing; codec and scorers are not used."""
    require(settings, set())
    resolve_device(settings.device)


@task(task_run_name="train {planned.name}", tags=["train"], cache_policy=NO_CACHE, **RETRIED)
def train(popdb: Popdb, planned: PlannedFit) -> Result:
    """POPDB → one variant with one seed."""
    settings = planned.settings
    with gpu_slot(settings), bar(range(settings.training.steps), planned.name) as progress:
        result = run_fit(popdb, planned, until_ended(lambda metrics: advance(progress, metrics)))
    if result.message:
        get_run_logger().warning("%s has no result: %s", planned.name, result.message)
    return shown(result, cached=not result.worked, what=planned.name)


@task(task_run_name="write the table", cache_policy=NO_CACHE)
def tabulate(popdb: Popdb, results: Sequence[Result], settings: Settings) -> Artifact:
    """Results → a page to read."""
    written = write_table(popdb, settings, results)
    return shown(written, cached=not written.made, what="the table")
