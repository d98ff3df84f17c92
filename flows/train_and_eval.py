"""train-and-eval: training → generation → scores → report (paper §V, §VI)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows import artifacts
from flows.runner import fit_together, parts_here, run_ends, until_run_ends, workers
from flows.tasks import AS_PRESET, RETRIED, Overrides, advance, bar, chosen, gpu_slot, run_name, shown
from samuel.artifacts import Artifact
from samuel.checkpoint import TrainedModel, load_model
from samuel.codecs.base import Codec
from samuel.config import Preset
from samuel.doctor import require, training_parts, unmeasured
from samuel.evaluate.cost import make_cost
from samuel.evaluate.distribution import Space
from samuel.evaluate.scores import find_score, in_order
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.systems import OURS
from samuel.evaluate.tracks import choose_pairs, lineup_of, make_track, require_codec
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.parts import Parts
from samuel.reading import read_json
from samuel.report.html import number
from samuel.report.report import SUMMARY, write_report
from samuel.text import counted
from samuel.train import fit, run_folder


@flow(name="train-and-eval", flow_run_name=run_name("{training.steps}-steps-{codec.name}"))
def train_and_eval(preset: Preset = "demo", settings: Overrides = AS_PRESET) -> dict[str, Any]:
    """Train SAMUeL on POPDB, accompany held-out vocals, score and report.

    Args:
        preset: demo, the embedded parts, or paper, the paper's run.
        settings: What is to differ from the preset: where the dataset lies, how to train, sample and score.
    """
    parts = Parts(chosen(preset, settings))
    popdb = open_popdb(parts.settings.popdb_path)
    require_codec(popdb, parts.settings.codec)
    given = {"popdb": popdb, "parts": parts}
    with workers(parts.settings, threads=1) as run:
        run.submit(examine, computes=True, parts=parts).result()
        model = run.submit(train, computes=True, **given).result()
        tracks = run.submit(generate, computes=True, model=model, **given).result()
        scores = run.submit(score, computes=True, model=model, tracks=tracks, **given).result()
        written = run.submit(report, model=model, tracks=tracks, scores=scores, **given).result()
    artifacts.show_report(written)
    made = {
        "model": str(model.folder),
        "accompaniments": [str(track.path("accompaniment.wav")) for track in tracks],
        "report": str(written.path("report.md")),
    }
    message = summary(model, read_json(written.path(SUMMARY)))
    return cast("dict[str, Any]", Completed(message=message, data=made))


def summary(model: Artifact, measured: Mapping[str, Any]) -> str:
    """Say in one line what a run ends with: its model, and the first of the scores that were measured."""
    progress = model.record["progress"]
    held = "held-out" if model.record["held_out"] else "training"
    best = f"{held} loss {number(progress['best_loss'], 4)} of v at step {progress['best_step']:,}"
    words = f"{counted(progress['step'], 'step')}; {best}; {counted(measured['tracks'], 'track')} scored"
    ours = {name: systems[OURS] for name, systems in measured["scores"].items() if OURS in systems}
    for name in in_order(ours)[:1]:
        found = find_score(name)
        words += f"; {found.title} {number(ours[name]['mean'], found.digits)} ({found.unit})"
    return words


@task(task_run_name="check the parts", cache_policy=NO_CACHE)
def examine(parts: Parts) -> None:
    """Stop before the long work where a part that the settings name is missing; warn of a scorer that is."""
    require(parts.settings, training_parts(parts.settings))
    for finding in unmeasured(parts.settings):
        words = "%s will be reported as not measured: %s; %s"
        get_run_logger().warning(words, finding.name, finding.detail, finding.remedy)


@task(task_run_name="train", tags=["train"], cache_policy=NO_CACHE, **RETRIED)
def train(popdb: Popdb, parts: Parts) -> Artifact:
    """POPDB → model."""
    settings, run = parts.settings, run_folder(popdb, parts.settings)
    page = artifacts.TrainingPage(settings.training, run / "training" / "metrics.jsonl")
    processes = settings.training.processes
    with gpu_slot(settings, processes), bar(range(settings.training.steps), "train") as progress:

        def on_step(metrics: dict[str, Any]) -> None:
            advance(progress, metrics)
            page.show(metrics)

        if processes > 1:
            model = fit_together(settings, run, on_step, run_ends())
        else:
            model = fit(popdb, settings, run, until_run_ends(on_step))
    page.end(model)
    return shown(model, cached=not model.made, what="the model")


@task(task_run_name="generate", tags=["generate"], cache_policy=NO_CACHE, **RETRIED)
def generate(popdb: Popdb, model: Artifact, parts: Parts) -> list[Artifact]:
    """Held-out vocals → accompaniments."""
    settings, root = parts.settings, run_folder(popdb, parts.settings) / "samples"
    load, digest, takes = loader(model, parts), model.sha256["model.safetensors"], settings.evaluation.takes
    pairs = choose_pairs(popdb, settings.evaluation.tracks)
    progress = artifacts.ProgressBar("generate", "Tracks generated")
    with gpu_slot(settings):
        shown_pairs = progress.over(bar(pairs, "generate"), len(pairs))
        tracks = [
            make_track(pair, popdb, load, digest, settings.sampling, root, takes) for pair in shown_pairs
        ]
    return shown(tracks, cached=not any(track.made for track in tracks), what=f"{len(tracks)} tracks")


@task(task_run_name="score", tags=["score"], cache_policy=NO_CACHE, **RETRIED)
def score(popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], parts: Parts) -> Artifact:
    """Accompaniments → scores."""
    settings, run = parts.settings, run_folder(popdb, parts.settings)
    progress = artifacts.ProgressBar("score", "Tracks scored")
    with gpu_slot(settings):
        cost = make_cost(loader(model, parts), model, settings, run / "cost")
        scores = score_lineup(
            lineup_of(tracks),
            settings.evaluation,
            run / "scores",
            Space(popdb.codec, None, popdb, tracks, model.sha256["model.safetensors"]),
            {OURS: cost.record},
            lambda items: progress.over(bar(items, "score", len(tracks)), len(tracks)),
        )
    return shown(scores, cached=not scores.made, what="the scores")


@task(task_run_name="report", tags=["report"], cache_policy=NO_CACHE, **RETRIED)
def report(
    popdb: Popdb, model: Artifact, tracks: Sequence[Artifact], scores: Artifact, parts: Parts
) -> Artifact:
    """Everything → a page to read."""
    written = write_report(popdb, model, tracks, scores, run_folder(popdb, parts.settings) / "report")
    return shown(written, cached=not written.made, what="the report")


def loader(model: Artifact, parts: Parts) -> Callable[[], tuple[TrainedModel, Codec]]:
    """Return what loads model and codec, when they are needed."""
    here = parts_here(parts)
    return lambda: (load_model(model.folder, here.device), here.codec)
