"""How long scoring takes, and with how much memory: each way in a process of its own, on the same tracks.

Random weights of the full size cost the same as the real ones.
"""

import contextlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.measure import Figure, device_name, in_gib, in_its_own_process
from benchmarks.pipeline import music
from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.codecs import load_codec
from samuel.config import CodecConfig, EvaluationConfig, Settings
from samuel.device import resolve_device
from samuel.evaluate.cost import Peak
from samuel.evaluate.distribution import Space
from samuel.evaluate.pretrained import WINDOW_S, load_audiobox, score_aesthetics
from samuel.evaluate.scores import AUDIOBOX
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.systems import folders
from samuel.evaluate.tracks import with_ceiling
from samuel.hub import quietly
from samuel.report.report import write_evaluation_report
from samuel.synthetic.song import compose

TRACK_S = 47.55
TRACKS = {"cpu": 4, "cuda": 40, "mps": 4}
LINEUP_TRACKS, SEED = 20, 7
ROUNDS = 2
MODEL = {
    "proj_num_layer": 5, "proj_ln": True, "proj_act_fn": "gelu", "proj_dropout": 0.0, "nth_layer": 13,
    "use_weighted_layer_sum": True, "precision": "32", "normalize_embed": True, "output_dim": 1
}  # fmt: skip
SCALE = {axis: {"mean": 5.0, "std": 1.0} for axis in AUDIOBOX}

Scores = list[dict[str, float]]


@dataclass(frozen=True)
class Cost:
    """What scoring all tracks took."""

    score_s: float  # from the first file to the last score; the weights were there before
    memory: str
    scores: Scores


def rows(settings: Settings, songs: int | None = None, seconds: float | None = None) -> Iterator[Figure]:
    """Yield (what, figure): AudioBox here against the package's command, in turns; then all other scores."""
    device, track_s = resolve_device(settings.device), seconds or TRACK_S
    count = songs or TRACKS[device.type]
    yield "device", device_name(device)
    yield "tracks", f"{count} of {track_s:.2f} s"
    with tempfile.TemporaryDirectory() as folder:
        weights, files = Path(folder) / "checkpoint.pt", write_tracks(Path(folder), count, track_s)
        write_audiobox(weights)
        ways = (own_command, batched)
        rounds = [[in_its_own_process(way, weights, files) for way in ways] for _ in range(ROUNDS)]
    theirs, ours = (min(costs, key=lambda cost: cost.score_s) for costs in zip(*rounds, strict=True))
    windows = count * math.ceil(track_s / WINDOW_S)
    yield "AudioBox by its own command", f"{theirs.score_s / windows:.2f} s a window, {theirs.memory}"
    ratio = f"{ours.score_s / theirs.score_s:.2f} × the time"
    yield "AudioBox, batched here", f"{ours.score_s / windows:.2f} s a window, {ours.memory}, {ratio}"
    yield "  largest difference of a score", f"{difference(theirs.scores, ours.scores):.0e}"
    count = songs or LINEUP_TRACKS
    with tempfile.TemporaryDirectory() as folder:
        write_folders(Path(folder), count, track_s)
        took_s, memory = in_its_own_process(evaluate, Path(folder))
    yield f"all but AudioBox, {count} tracks of {track_s:.2f} s", f"{took_s:.1f} s, {memory}"


def own_command(weights: Path, files: list[Path]) -> Cost:
    """What the package's `main_predict` does, once the weights are there, with samples read by soundfile."""
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

    def work(predictor: Any) -> Scores:
        return [score_aesthetics(predictor, read_wav(file)) for file in files]

    return _cost(lambda: load_audiobox(weights), work)


def _cost(load: Callable[[], Any], work: Callable[[Any], Scores]) -> Cost:
    peak = Peak(resolve_device("auto"))
    with quietly():
        predictor = load()
    began = time.perf_counter()
    scores = work(predictor)
    return Cost(time.perf_counter() - began, f"{in_gib(peak.bytes())} {peak.memory}", scores)


def difference(one: Scores, other: Scores) -> float:
    """Largest difference between the same scores of the same tracks."""
    return max(abs(a[axis] - b[axis]) for a, b in zip(one, other, strict=True) for axis in AUDIOBOX)


def write_tracks(folder: Path, count: int, duration_s: float) -> list[Path]:
    """A synthetic song at different levels, 44.1 kHz stereo."""
    files, song = [folder / f"{number}.wav" for number in range(count)], music(duration_s)
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


def write_folders(root: Path, count: int, duration_s: float) -> None:
    """`vocals`, `true` and `shifted`, which is another song's, from the middle of synthetic songs."""
    for name in ("vocals", "true", "shifted"):
        (root / name).mkdir()
    for number in range(count):
        song, samples = compose(seed=SEED, index=number), round(duration_s * SAMPLE_RATE)
        first = max(0, (song.mix.shape[1] - samples) // 2)
        vocal, mix = (audio[:, first : first + samples] for audio in (song.vocals, song.mix))
        write_wav(root / "vocals" / f"{number:03d}.wav", vocal, "PCM_16")
        write_wav(root / "true" / f"{number:03d}.wav", mix - vocal, "PCM_16")
        write_wav(root / "shifted" / f"{(number + 1) % count:03d}.wav", mix - vocal, "PCM_16")


def evaluate(root: Path) -> tuple[float, str]:
    """From the folders to the report, with the embedded codec: seconds, and the most memory held."""
    cpu = resolve_device("cpu")
    peak, began, codec = Peak(cpu), time.perf_counter(), load_codec(CodecConfig(), cpu)
    lineup = folders(root / "vocals", {"shifted": root / "shifted"}, root / "true")
    lineup = with_ceiling(lineup, codec, root / "through-codec")
    scores = score_lineup(lineup, EvaluationConfig(), root / "scores", Space(codec.info, codec))
    write_evaluation_report(lineup, scores, root / "report")
    return time.perf_counter() - began, in_gib(peak.bytes())
