"""How long `samuel evaluate` takes for everything but AudioBox, and with how much memory."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.pipeline import Row
from samuel.audio import SAMPLE_RATE, write_wav
from samuel.codecs import load_codec
from samuel.config import CodecConfig, EvaluationConfig
from samuel.device import resolve_device
from samuel.evaluate.cost import Peak
from samuel.evaluate.distribution import FolderSpace
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.systems import folders
from samuel.evaluate.tracks import with_ceiling
from samuel.report.report import write_evaluation_report
from samuel.synthetic.song import compose

TRACKS, TRACK_S = 20, 47.55
SEED = 7
Cost = tuple[float, int | None]
"""Seconds and bytes."""


def lineup_rows(tracks: int | None = None, track_s: float | None = None) -> Iterator[Row]:
    """Yield (what, figure) for one system, with the true accompaniments and their way through the codec.

    The system is another song's accompaniment: what is scored does not change what scoring costs.
    """
    count, duration_s = tracks or TRACKS, track_s or TRACK_S
    with tempfile.TemporaryDirectory() as folder:
        write_folders(Path(folder), count, duration_s)
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            seconds, peak = pool.submit(evaluate, Path(folder)).result()
    memory = "memory not measured" if peak is None else f"{peak / 2**30:.2f} GiB"
    yield f"all but AudioBox, {count} tracks of {duration_s:.2f} s", f"{seconds:.1f} s, {memory}"


def write_folders(root: Path, count: int, duration_s: float) -> None:
    """`vocals`, `true` and `shifted`, from the middle of synthetic songs."""
    for name in ("vocals", "true", "shifted"):
        (root / name).mkdir()
    for number in range(count):
        song = compose(seed=SEED, index=number)
        samples = round(duration_s * SAMPLE_RATE)
        first = max(0, (song.mix.shape[1] - samples) // 2)
        vocal, mix = (audio[:, first : first + samples] for audio in (song.vocals, song.mix))
        write_wav(root / "vocals" / f"{number:03d}.wav", vocal, "PCM_16")
        write_wav(root / "true" / f"{number:03d}.wav", mix - vocal, "PCM_16")
        write_wav(root / "shifted" / f"{(number + 1) % count:03d}.wav", mix - vocal, "PCM_16")


def evaluate(root: Path) -> Cost:
    """From the folders to the report, with the embedded codec: seconds, and the most memory held."""
    peak = Peak(resolve_device("cpu"))
    began = time.perf_counter()
    codec = load_codec(CodecConfig(), resolve_device("cpu"))
    lineup = folders(root / "vocals", {"shifted": root / "shifted"}, root / "true")
    lineup = with_ceiling(lineup, codec, root / "through-codec")
    scores = score_lineup(lineup, EvaluationConfig(), root / "scores", FolderSpace(codec))
    write_evaluation_report(lineup, scores, root / "report")
    return time.perf_counter() - began, peak.bytes()
