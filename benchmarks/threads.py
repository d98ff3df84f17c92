"""How much slower a small workload gets beside busy processes, by how libgomp's threads wait at a barrier.

Each figure is from processes of their own: libgomp reads its variables when torch is first imported.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Any

WAYS = {
    "libgomp's default": {},
    "GOMP_SPINCOUNT as samuel sets it": {"SAMUEL_FIRST": "1"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
NEIGHBOURS = (0, 1, 2, 5)  # busy processes beside
BUSY = "while True: pass"
SECONDS, WARM_UP = 10.0, 1


def rows(_settings: Any, seconds: float | None = None) -> Iterator[tuple[str, str]]:
    """Yield (what, figure): the median time of a call in so many seconds, as a ratio to the quiet default."""
    quiet: dict[str, float] = {}
    yield "machine", f"{os.cpu_count()} processors, busy with {os.getloadavg()[0]:.1f} tasks before we began"
    for neighbours in NEIGHBOURS:
        for way, variables in WAYS.items():
            times = measured(variables, neighbours, seconds or SECONDS)
            quiet = quiet or times
            ratios = {work: time_s / quiet[work] for work, time_s in times.items()}
            yield f"{neighbours} busy, {way}", ", ".join(f"{work} {x:.2f} ×" for work, x in ratios.items())
    yield "quiet", ", ".join(f"{work} {1000 * time_s:.1f} ms" for work, time_s in quiet.items())


def measured(variables: dict[str, str], neighbours: int, seconds: float) -> dict[str, float]:
    """Seconds of a call of each workload, in a process beside so many that are busy."""
    ours = ("OMP_", "GOMP_", "SAMUEL_FIRST")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | variables
    with ExitStack() as stack:
        for _ in range(neighbours):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(busy.kill)
        command = [sys.executable, "-m", "benchmarks.threads", str(seconds)]
        return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def workloads() -> dict[str, Any]:
    """The demo's training step, and a convolution as the VAE has many."""
    if "SAMUEL_FIRST" in os.environ:
        import samuel.config  # noqa: F401  (sets the variable, and torch is not there yet)
    import torch

    from benchmarks.network import training_step
    from samuel.config import Settings

    settings = Settings()
    step = training_step(
        settings, settings.training.batch_size, settings.popdb.chunk_frames, torch.device("cpu")
    )
    convolution, audio = torch.nn.Conv1d(64, 64, 7, padding=3), torch.randn(1, 64, 65_536)

    def convolve() -> None:
        with torch.inference_mode():
            convolution(audio)

    return {"training step": step, "convolution": convolve}


def main() -> None:
    """Print the median time of every workload as JSON."""
    times: dict[str, float] = {}
    for name, work in workloads().items():
        for _ in range(WARM_UP):
            work()
        calls, until = list[float](), time.perf_counter() + float(sys.argv[1])
        while not calls or time.perf_counter() < until:
            began = time.perf_counter()
            work()
            calls.append(time.perf_counter() - began)
        times[name] = median(calls)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
