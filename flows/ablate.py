"""ablate: one choice varied at a time, several seeds, one table."""

from collections.abc import Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts
from flows.stages import bar, shown
from flows.train_and_eval import advance
from samuel.ablation import PlannedFit, Result, planned_fits, run_fit, write_table
from samuel.config import Settings, demo
from samuel.device import resolve_device
from samuel.doctor import require
from samuel.files import Entry
from samuel.popdb.shards import Popdb, open_popdb


@flow(
    name="ablate",
    flow_run_name="{settings.ablation.seeds}-seeds-{settings.training.steps}-steps",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]
)
def ablate(settings: Settings = demo()) -> dict[str, Any]:  # noqa: B008  (frozen, and the UI's form)
    """Compare choices that the papers leave open, on the same data and over the same steps.

    Args:
        settings: Where the dataset lies, what the variants start from, what is varied; see `samuel.config`.
    """
    examine(settings)
    popdb = open_popdb(settings.popdb_path)
    results = [train.submit(popdb, planned).result() for planned in planned_fits(settings)]
    written = tabulate.submit(popdb, results, settings).result()
    artifacts.show_ablation(written)
    return {"fits": len(results), "table": str(written.path("ablation.md"))}


@task(task_run_name="check this machine", cache_policy=NO_CACHE)
def examine(settings: Settings) -> None:
    """Stop before the long work where something is missing; codec and scorers are not used."""
    require(settings, set())
    resolve_device(settings.device)


@task(task_run_name="train {planned.name}", cache_policy=NO_CACHE)
def train(popdb: Popdb, planned: PlannedFit) -> Result:
    """POPDB → one variant with one seed."""
    with bar(range(planned.settings.training.steps), planned.name) as progress:
        result = run_fit(popdb, planned, lambda metrics: advance(progress, metrics))
    if result.message:
        get_run_logger().warning("%s has no result: %s", planned.name, result.message)
    return shown(result, cached=not result.worked, what=planned.name)


@task(task_run_name="write the table", cache_policy=NO_CACHE)
def tabulate(popdb: Popdb, results: Sequence[Result], settings: Settings) -> Entry:
    """Results → a page to read."""
    written = write_table(popdb, settings, results)
    return shown(written, cached=not written.made, what="the table")
