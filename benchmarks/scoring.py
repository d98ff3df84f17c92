"""How long the scorers take, and with how much memory: each way in a process of its own, on the same tracks.

Random weights of the full size cost the same as the real ones.
"""

import contextlib
import io
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.lineup import lineup_rows
from benchmarks.pipeline import Row, device_name, music
from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.config import Settings
from samuel.device import resolve_device
from samuel.evaluate.cost import Peak
from samuel.evaluate.pretrained import WINDOW_S, load_audiobox, score_aesthetics
from samuel.evaluate.scores import AUDIOBOX
from samuel.hub import quietly

TRACK_S = 47.55
TRACKS = {"cpu": 4, "cuda": 40, "mps": 4}
ROUNDS = 2
MODEL = {
    "proj_num_layer": 5, "proj_ln": True, "proj_act_fn": "gelu", "proj_dropout": 0.0, "nth_layer": 13,
    "use_weighted_layer_sum": True, "precision": "32", "normalize_embed": True, "output_dim": 1,
}  # fmt: skip
SCALE = {axis: {"mean": 5.0, "std": 1.0} for axis in AUDIOBOX}

Scores = list[dict[str, float]]


@dataclass(frozen=True)
class Cost:
    """What scoring all tracks took.

    Attributes:
        score_s: From the first file to the last score; the weights were there before.
        peak_bytes: Most memory that was held; None where nothing tells it.
        memory: Whose it is.
        scores: A row for each track.
    """

    score_s: float
    peak_bytes: int | None
    memory: str
    scores: Scores


def scoring_rows(
    settings: Settings, tracks: int | None = None, track_s: float | None = None
) -> Iterator[Row]:
    """Yield (what, figure), as they are measured.

    Args:
        settings: device.
        tracks: How many; none: as many as take some minutes.
        track_s: Their duration; none: the paper's.
    """
    device = resolve_device(settings.device)
    count, duration_s = tracks or TRACKS[device.type], track_s or TRACK_S
    yield "device", device_name(device)
    yield "tracks", f"{count} of {duration_s:.2f} s"
    yield from audiobox_rows(count, duration_s)
    yield from lineup_rows(tracks, track_s)


def audiobox_rows(count: int, duration_s: float) -> Iterator[Row]:
    """Windows of all tracks in batches of one size, against the package's own command.

    Both take a GPU where there is one. They take turns, and the faster of two times counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights, files = Path(folder) / "checkpoint.pt", write_tracks(Path(folder), count, duration_s)
        write_audiobox(weights)
        rounds = [
            [in_its_own_process(way, weights, files) for way in (own_command, batched)] for _ in range(ROUNDS)
        ]
    theirs, ours = (min(costs, key=lambda cost: cost.score_s) for costs in zip(*rounds, strict=True))
    windows = count * math.ceil(duration_s / WINDOW_S)
    yield "AudioBox by its own command", _figure(theirs, windows)
    yield (
        "AudioBox, batched here",
        f"{_figure(ours, windows)}, {ours.score_s / theirs.score_s:.2f} × the time",
    )
    yield "  largest difference of a score", f"{difference(theirs.scores, ours.scores):.0e}"


def own_command(weights: Path, files: list[Path]) -> Cost:
    """What the package's `main_predict` does, by default ten tracks to a batch, once the weights are there.

    The samples are read by soundfile: the package's own reader wants another library.
    """
    with quietly():
        from audiobox_aesthetics import infer

    def work(predictor: Any) -> Scores:
        tracks = [{"path": torch.from_numpy(read_wav(file)), "sample_rate": SAMPLE_RATE} for file in files]
        loaded = patch.object(infer, "initialize_predictor", lambda _: predictor)  # that has its own time
        with loaded, quietly(), contextlib.redirect_stderr(io.StringIO()):
            return [json.loads(row) for row in infer.main_predict(tracks, None)]

    return _cost(lambda: infer.initialize_predictor(str(weights)), work)


def batched(weights: Path, files: list[Path]) -> Cost:
    """The same by `samuel.evaluate.pretrained`."""
    return _cost(
        lambda: load_audiobox(weights),
        lambda predictor: [score_aesthetics(predictor, read_wav(file)) for file in files],
    )


def in_its_own_process(way: Callable[..., Cost], weights: Path, files: list[Path]) -> Cost:
    """Score in a new process, which has nothing in memory."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, weights, files).result()


def difference(one: Scores, other: Scores) -> float:
    """Largest difference between the same scores of the same tracks."""
    return max(abs(a[axis] - b[axis]) for a, b in zip(one, other, strict=True) for axis in AUDIOBOX)


def write_tracks(folder: Path, count: int, duration_s: float) -> list[Path]:
    """A synthetic song at different levels, 44.1 kHz stereo."""
    files = [folder / f"{number}.wav" for number in range(count)]
    song = music(duration_s)
    for number, file in enumerate(files):
        write_wav(file, song * np.float32(0.9**number))
    return files


def write_audiobox(path: Path) -> None:
    """A checkpoint in the package's layout: 103.9 M parameters, random, always the same."""
    with quietly(), torch.random.fork_rng(devices=[]):
        from audiobox_aesthetics.model.aes import AesMultiOutput

        torch.manual_seed(0)
        state = AesMultiOutput(**MODEL, target_transform=SCALE).state_dict()
    named = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": named, "model_cfg": MODEL, "target_transform": SCALE}, path)


def _cost(load: Callable[[], Any], work: Callable[[Any], Scores]) -> Cost:
    peak = Peak(resolve_device("auto"))
    with quietly():
        predictor = load()
    began = time.perf_counter()
    scores = work(predictor)
    return Cost(time.perf_counter() - began, peak.bytes(), peak.memory, scores)


def _figure(cost: Cost, windows: int) -> str:
    held = (
        "memory not measured"
        if cost.peak_bytes is None
        else f"{cost.peak_bytes / 2**30:.2f} GiB {cost.memory}"
    )
    return f"{cost.score_s / windows:.2f} s a window, {held}"
