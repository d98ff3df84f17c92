"""ablate: one choice varied at a time, several seeds, one table."""

from collections.abc import Sequence
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows import artifacts
from flows.runner import until_run_ends, workers
from flows.tasks import AS_PRESET, RETRIED, Overrides, advance, bar, chosen, gpu_slot, run_name, shown
from samuel.ablation import PlannedFit, Result, planned_fits, run_fit, write_table
from samuel.artifacts import Artifact
from samuel.config import Preset, Settings
from samuel.device import resolve_device
from samuel.doctor import require
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.text import counted


@flow(name="ablate", flow_run_name=run_name("{ablation.seeds}-seeds-{training.steps}-steps"))
def ablate(preset: Preset = "demo", settings: Overrides = AS_PRESET) -> dict[str, Any]:
    """Compare choices that the papers leave open, on the same data and over the same steps.

    Args:
        preset: demo, the embedded parts, or paper, the paper's run.
        settings: What is to differ from the preset: where the dataset lies, what is varied.
    """
    tree = chosen(preset, settings)
    popdb = open_popdb(tree.popdb_path)
    with workers(tree, threads=1) as run:
        run.submit(examine, computes=True, settings=tree).result()
        fits = [run.submit(train, computes=True, popdb=popdb, planned=fit) for fit in planned_fits(tree)]
        progress = artifacts.ProgressBar("fits", "Fits trained")
        results = [fit.result() for fit in progress.over(fits, len(fits))]
        table = run.submit(tabulate, popdb=popdb, results=results, settings=tree).result()
    artifacts.show_ablation(table)
    failed = sum(bool(result.message) for result in results)
    message = counted(len(results), "fit") + (f", {failed:,} without a result" if failed else "")
    made = {"fits": len(results), "table": str(table.path("ablation.md"))}
    return cast("dict[str, Any]", Completed(message=message, data=made))


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
        result = run_fit(popdb, planned, until_run_ends(lambda metrics: advance(progress, metrics)))
    if result.message:
        get_run_logger().warning("%s has no result: %s", planned.name, result.message)
    return shown(result, cached=not result.worked, what=planned.name)


@task(task_run_name="write the table", cache_policy=NO_CACHE)
def tabulate(popdb: Popdb, results: Sequence[Result], settings: Settings) -> Artifact:
    """Results → a page to read."""
    written = write_table(popdb, settings, results)
    return shown(written, cached=not written.made, what="the table")
