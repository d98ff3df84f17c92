"""train-and-eval: training → generation → scores → report (paper §V, §VI)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed
from tqdm import tqdm

from flows import artifacts
from flows.credentials import take_secrets
from flows.runner import Workers, asked_to_end, ending, parts_here, until_ended, workers
from flows.tasks import RETRIED, bar, gpu_slot, shown
from flows.torchrun import fit_together
from samuel.artifacts import Artifact, read_json
from samuel.checkpoint import TrainedModel, load_model
from samuel.codecs.base import Codec
from samuel.config import Settings, demo
from samuel.doctor import require, training_parts, unmeasured
from samuel.evaluate.cost import make_cost
from samuel.evaluate.distribution import DatasetSpace
from samuel.evaluate.scores import find_score, in_order
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.systems import OURS
from samuel.evaluate.tracks import (
    choose_pairs,
    lineup_of,
    make_track,
    require_codec,
)
from samuel.popdb.accounts import counted
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.parts import Parts
from samuel.report.html import number
from samuel.report.report import SUMMARY, write_report
from samuel.train import fit, run_folder


@flow(
    name="train-and-eval",
    flow_run_name="{settings.training.steps}-steps-{settings.codec.name}",
)
def train_and_eval(settings: Settings = demo()) -> dict[str, Any]:  # noqa: B008  (frozen, and the UI's form)
    """Train SAMUeL on POPDB, accompany held-out vocals, score and report.

    Args:
        settings: Where the dataset lies, how to train, sample and score; see `samuel.config`.
    """
    take_secrets()
    popdb = open_popdb(settings.popdb_path)
    require_codec(popdb, settings.codec)
    with workers(settings, threads=1) as run, ending():
        run.submit(examine, computes=True, settings=settings).result()
        model, tracks, written = make(run, popdb, settings)
    artifacts.show_report(written)
    made = {
        "model": str(model.folder),
        "accompaniments": [str(track.path("accompaniment.wav")) for track in tracks],
        "report": str(written.path("report.md")),
    }
    told = summary(model, read_json(written.path(SUMMARY)))
    return cast("dict[str, Any]", Completed(message=told, data=made))


def make(run: Workers, popdb: Popdb, settings: Settings) -> tuple[Artifact, list[Artifact], Artifact]:
    """POPDB → model, accompaniments and report, one task after the other."""
    given: dict[str, Any] = {"popdb": popdb, "settings": settings, "run": run_folder(popdb, settings)}
    shared = Parts(settings)
    model = run.submit(train, computes=True, **given).result()
    tracks = run.submit(generate, computes=True, model=model, parts=shared, **given).result()
    scores = run.submit(score, computes=True, model=model, tracks=tracks, parts=shared, **given).result()
    written = run.submit(report, model=model, tracks=tracks, scores=scores, **given).result()
    return model, tracks, written


def summary(model: Artifact, measured: Mapping[str, Any]) -> str:
    """What a run ends with, in one line.

    Args:
        model: The trained model.
        measured: The summary of its scores.
    """
    progress = model.record["progress"]
    held = "held-out" if model.record["held_out"] else "training"
    parts = [
        counted(progress["step"], "step"),
        f"{held} loss {number(progress['best_loss'], 4)} of v at step {progress['best_step']:,}",
        f"{counted(measured['tracks'], 'track')} scored",
    ]
    scored = {name: systems[OURS] for name, systems in measured["scores"].items() if OURS in systems}
    if first := next(iter(in_order(scored)), None):
        found = find_score(first)
        parts.append(f"{found.title} {number(scored[first]['mean'], found.digits)} ({found.unit})")
    return "; ".join(parts)


@task(task_run_name="check the parts", cache_policy=NO_CACHE)
def examine(settings: Settings) -> None:
    """Stop before the long work where a part that the settings name is missing; warn of a scorer that is."""
    require(settings, training_parts(settings))
    for finding in unmeasured(settings):
        get_run_logger().warning(
            "%s will be reported as not measured: %s; %s", finding.name, finding.detail, finding.remedy
        )


@task(task_run_name="train {settings.training.steps} steps", tags=["train"], cache_policy=NO_CACHE, **RETRIED)
def train(popdb: Popdb, settings: Settings, run: Path) -> Artifact:
    """POPDB → model."""
    page = artifacts.TrainingPage(settings.training, run / "training" / "metrics.jsonl")
    processes = settings.training.processes
    with gpu_slot(settings, processes), bar(range(settings.training.steps), "train") as progress:

        def on_step(metrics: dict[str, Any]) -> None:
            advance(progress, metrics)
            page.show(metrics)

        if processes > 1:
            model = fit_together(settings, run, on_step, asked_to_end())
        else:
            model = fit(popdb, settings, run, until_ended(on_step))
    page.end(model)
    return shown(model, cached=not model.made, what="the model")


@task(task_run_name="generate", tags=["generate"], cache_policy=NO_CACHE, **RETRIED)
def generate(popdb: Popdb, model: Artifact, parts: Parts, settings: Settings, run: Path) -> list[Artifact]:
    """Held-out vocals → accompaniments."""
    load = parts_of(model, parts)
    pairs = choose_pairs(popdb, settings.evaluation.tracks)
    digest, takes = model.sha256["model.safetensors"], settings.evaluation.takes
    share = artifacts.Share("generate", "Tracks generated")
    with gpu_slot(settings):
        tracks = [
            make_track(pair, popdb, load, digest, settings.sampling, run / "samples", takes)
            for pair in share.over(bar(pairs, "generate"), len(pairs))
        ]
    return shown(tracks, cached=not any(track.made for track in tracks), what=f"{len(tracks)} tracks")


@task(task_run_name="score", tags=["score"], cache_policy=NO_CACHE, **RETRIED)
def score(
    popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], parts: Parts, settings: Settings, run: Path
) -> Artifact:
    """Accompaniments → scores."""
    share = artifacts.Share("score", "Tracks scored")
    with gpu_slot(settings):
        cost = make_cost(parts_of(model, parts), model, settings, run / "cost")
        scores = score_lineup(
            lineup_of(tracks),
            settings.evaluation,
            run / "scores",
            DatasetSpace(popdb, tracks, model.sha256["model.safetensors"]),
            {OURS: cost.record},
            lambda items: share.over(bar(items, "score", len(tracks)), len(tracks)),
        )
    return shown(scores, cached=not scores.made, what="the scores")


@task(task_run_name="report", tags=["report"], cache_policy=NO_CACHE, **RETRIED)
def report(
    popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], scores: Artifact, settings: Settings, run: Path
) -> Artifact:
    """Everything → a page to read."""
    written = write_report(popdb, model, tracks, scores, run / "report")
    return shown(written, cached=not written.made, what="the report")


def parts_of(model: Artifact, parts: Parts) -> Callable[[], tuple[TrainedModel, Codec]]:
    """What loads model and codec, when they are needed."""
    here = parts_here(parts)
    return lambda: (load_model(model.folder, here.device), here.codec)


def advance(progress: "tqdm[int]", metrics: dict[str, Any]) -> None:
    """Move the bar to the step the metrics are of."""
    progress.update(metrics["step"] - progress.n)
    progress.set_postfix(v_mse=f"{metrics['v_mse']:.3f}", refresh=False)
