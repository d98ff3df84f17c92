"""train-and-eval: training → generation → scores → report (paper §V, §VI)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from tqdm import tqdm

from flows import artifacts
from flows.stages import bar, shown
from samuel.checkpoint import TrainedModel, load_model
from samuel.codec import Codec
from samuel.config import Settings, demo
from samuel.device import resolve_device
from samuel.doctor import require, training_parts, unmeasured
from samuel.evaluate.cost import make_cost
from samuel.evaluate.distribution import DatasetSpace
from samuel.evaluate.scores import score_lineup
from samuel.evaluate.systems import OURS
from samuel.evaluate.tracks import choose_pairs, lineup_of, make_track, require_codec
from samuel.files import Entry
from samuel.popdb.pipeline import codec_for
from samuel.popdb.shards import Popdb, open_popdb
from samuel.report.report import write_report
from samuel.train import fit, run_folder


@flow(
    name="train-and-eval",
    flow_run_name="{settings.training.steps}-steps-{settings.codec.name}",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]
)
def train_and_eval(settings: Settings = demo()) -> dict[str, Any]:  # noqa: B008  (frozen, and the UI's form)
    """Train SAMUeL on POPDB, accompany held-out vocals, score and report.

    Args:
        settings: Where the dataset lies, how to train, sample and score; see `samuel.config`.
    """
    examine(settings)
    popdb = open_popdb(settings.popdb_path)
    require_codec(popdb, settings.codec)
    run = run_folder(popdb, settings)
    model = train.submit(popdb, settings, run).result()
    tracks = generate.submit(popdb, model, settings, run).result()
    scores = score.submit(popdb, model, tracks, settings, run).result()
    written = report.submit(popdb, model, tracks, scores, run).result()
    artifacts.show_report(written)
    return {
        "model": str(model.folder),
        "accompaniments": [str(track.path("accompaniment.wav")) for track in tracks],
        "report": str(written.path("report.md")),
    }


@task(task_run_name="check this machine", cache_policy=NO_CACHE)
def examine(settings: Settings) -> None:
    """Stop before the long work where a part that the settings name is missing; warn of a scorer that is."""
    require(settings, training_parts(settings))
    for finding in unmeasured(settings):
        get_run_logger().warning(
            "%s will be reported as not measured: %s; %s", finding.name, finding.detail, finding.remedy
        )


@task(task_run_name="train {settings.training.steps} steps", cache_policy=NO_CACHE)
def train(popdb: Popdb, settings: Settings, run: Path) -> Entry:
    """POPDB → model."""
    with bar(range(settings.training.steps), "train") as progress:
        model = fit(popdb, settings, run, lambda metrics: advance(progress, metrics))
    return shown(model, cached=not model.made, what="the model")


@task(task_run_name="generate", cache_policy=NO_CACHE)
def generate(popdb: Popdb, model: Entry, settings: Settings, run: Path) -> list[Entry]:
    """Held-out vocals → accompaniments."""
    load = parts_of(model, settings)
    pairs = choose_pairs(popdb, settings.evaluation.tracks)
    digest, takes = model.sha256["model.safetensors"], settings.evaluation.takes
    tracks = [
        make_track(pair, popdb, load, digest, settings.sampling, run / "samples", takes)
        for pair in bar(pairs, "generate")
    ]
    return shown(tracks, cached=not any(track.made for track in tracks), what=f"{len(tracks)} tracks")


@task(task_run_name="score", cache_policy=NO_CACHE)
def score(popdb: Popdb, model: Entry, tracks: Sequence[Entry], settings: Settings, run: Path) -> Entry:
    """Accompaniments → scores."""
    cost = make_cost(parts_of(model, settings), model, settings, run / "cost")
    scores = score_lineup(
        lineup_of(tracks),
        settings.evaluation,
        run / "scores",
        DatasetSpace(popdb, tracks, model.sha256["model.safetensors"]),
        {OURS: cost.record},
        lambda items: bar(items, "score", len(tracks)),
    )
    return shown(scores, cached=not scores.made, what="the scores")


@task(task_run_name="report", cache_policy=NO_CACHE)
def report(popdb: Popdb, model: Entry, tracks: Sequence[Entry], scores: Entry, run: Path) -> Entry:
    """Everything → a page to read."""
    written = write_report(popdb, model, tracks, scores, run / "report")
    return shown(written, cached=not written.made, what="the report")


def parts_of(model: Entry, settings: Settings) -> Callable[[], tuple[TrainedModel, Codec]]:
    """What loads model and codec, when they are needed."""
    device = resolve_device(settings.device)
    return lambda: (load_model(model.folder, device), codec_for(settings))


def advance(progress: "tqdm[int]", metrics: dict[str, Any]) -> None:
    """Move the bar to the step the metrics are of."""
    progress.update(metrics["step"] - progress.n)
    progress.set_postfix(v_mse=f"{metrics['v_mse']:.3f}", refresh=False)
