"""SIGKILL at random moments of the demo, and whether it matters.

    python -m tests.chaos --kills 50

Both flows run once undisturbed. Then, in other folders, they run under a worker while the process of the flow
run, the worker, the server, or all of these and `make serve` are killed, again and again. A run that died is
started again, as a person would. In the end the dataset, the weights and the accompaniments must have the
same bytes, nothing may have been made twice, and no run may be shown as running.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

PORT = int(os.environ.setdefault("SAMUEL_PREFECT_PORT", "4290"))
# Before Prefect is imported, which reads it then.
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{PORT}/api"

import httpx  # noqa: E402
import psutil  # noqa: E402
from prefect.client.schemas.objects import FlowRun, StateType  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402

from samuel.config import Settings, parse  # noqa: E402
from samuel.reading import read_jsonl  # noqa: E402
from tests.flows.runs import digests  # noqa: E402
from tests.flows.serving import Served  # noqa: E402

FLOWS = ("build-popdb/demo", "train-and-eval/demo")
VICTIMS = ("flow", "flow", "worker", "server", "machine")  # what dies most often, twice
# What belongs to whom, by words of the command line.
MARKS = {
    "flow": ("prefect.engine", "_workspace_supervisor", "prefect/runner/"),
    "worker": ("worker start",),
    "server": ("flows.server",),
    "machine": ("flows.serve", "prefect"),
}
FINISHED = ("data/*/*/entry.json", "artifacts/*/*/entry.json", "artifacts/*/samples/*/entry.json")
IN_HAND = ("data/*/.*.tmp", "artifacts/*/.*.tmp", "artifacts/*/samples/.*.tmp")
LONGEST_WAIT_S = 30.0  # until the next kill, from when the run is at work
AT_START = 0.2  # of the kills come while a run starts, which takes about as long
GONE_S = 25.0  # without a process, a run that is not over has died; a worker takes seconds to start one
RUN_S = 1800
SETTLE_S = 600  # within which nothing may be shown as running any more
SMALL: dict[str, Any] = {
    "songs": {"limit": 6},
    "popdb": {"chunk_frames": 256},
    "training": {"steps": 60, "checkpoint_every": 10, "validate_every": 30},
    "evaluation": {"tracks": 1, "takes": 1},
}
# The server is away, boots, has no deployments yet, or no password.
AWAY = (httpx.HTTPError, RuntimeError, ObjectNotFound, FileNotFoundError)


class Chaos:
    """`make serve` whose processes are killed now and then, and what was seen of the files meanwhile."""

    def __init__(self, home: Path, seed: int, sizes: dict[str, Any]) -> None:
        self.home, self.sizes, self.left, self.runs = home, sizes, 0, 0
        self.served = Served(home, PORT)
        self.killed, self.made_again = Counter[str](), list[str]()
        self.lost_s, self.lost_steps = list[float](), list[int]()
        self.longest_s = 0.0
        self._draw = Random(seed)  # noqa: S311
        self._finished: dict[Path, tuple[int, int]] = {}
        self._since: dict[Path, float] = {}
        self._last_kill_s = 0.0

    def through(self, name: str) -> dict[str, str]:
        """Run both flows to their end in a folder of this name; the digests of what they are for."""
        root = self.home / name
        folders = {"data": str(root / "data"), "artifacts": str(root / "artifacts")}
        settings = parse({**self.sizes, **folders})
        for flow in FLOWS:
            while not self._run(flow, settings, root):
                pass
        made = ("artifacts/*/model/model.safetensors", "artifacts/*/samples/*/accompaniment.wav")
        kept = {str(path.relative_to(root)) for pattern in made for path in root.glob(pattern)}
        popdb = Path(settings.popdb_path).relative_to(root)
        return {n: d for n, d in digests(root).items() if n in kept or Path(n).is_relative_to(popdb)}

    def unfinished(self) -> list[str]:
        """Name the runs that are still shown as not over."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            with contextlib.suppress(*AWAY), self.served.client() as client:
                runs = [*client.read_flow_runs(), *client.read_task_runs()]
                names = [run.name for run in runs if not run.state or not run.state.is_final()]
                if not names or time.monotonic() > deadline:
                    return names
            time.sleep(5)

    def _run(self, flow: str, settings: Settings, root: Path) -> bool:
        """Submit a flow and follow it; whether it came to its end."""
        run = None
        while not run:
            self._keep_serving()
            with contextlib.suppress(*AWAY):
                run = self.served.run(flow, settings)
        self.runs += 1
        at_work, deadly = self._draw.random() < AT_START, False
        next_s = seen_s = time.monotonic()
        next_s += self._draw.uniform(0, LONGEST_WAIT_S)
        deadline, look_s = time.monotonic() + RUN_S, 0.0
        while (now := time.monotonic()) < deadline:
            self._watch(root)
            if self.left and at_work and now > next_s and (victim := self._kill(root)):
                next_s, deadly = now + self._draw.uniform(0, LONGEST_WAIT_S), True
                if victim in ("flow", "machine"):
                    return False
            if now > look_s:
                look_s = now + 1.0
                self._keep_serving()
                state = self._state(run)
                if state == StateType.COMPLETED:
                    return True
                if state == StateType.RUNNING and not at_work:
                    at_work, next_s = True, now + self._draw.uniform(0, LONGEST_WAIT_S)
                if state == StateType.SCHEDULED or any(self._processes("flow")):
                    seen_s = now
                over = state in (StateType.CRASHED, StateType.FAILED) or now - seen_s > GONE_S
                if over and not deadly:
                    raise RuntimeError(f"{flow}: {state}, and nobody had killed it")
                if over:  # Prefect gives up a run that finds no server when it begins
                    return False
            time.sleep(0.05)
        raise TimeoutError(f"{flow}: not over after {RUN_S} s")

    def _keep_serving(self) -> None:
        if self.served.process.poll() is not None:  # as systemd would
            self.served.process = self.served.start("flows.serve")

    def _state(self, run: FlowRun) -> StateType | None:
        with contextlib.suppress(*AWAY), self.served.client() as client:
            return client.read_flow_run(run.id).state_type
        return None

    def _kill(self, root: Path) -> str:
        """Kill somebody; who it was, empty where there was nobody, as between two lives of a worker."""
        victim = self._draw.choice(VICTIMS)
        processes = list(self._processes(victim))
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not processes:
            return ""
        if victim == "machine":
            self.served.process.wait()
        now, self._last_kill_s = time.monotonic(), time.time()
        self.lost_s.append(max((now - since for since in self._since.values()), default=0.0))
        self.lost_steps.append(steps_since_checkpoint(root))
        self._since = {}
        self.left -= 1
        self.killed[victim] += 1
        lost = f"artifact in hand {self.lost_s[-1]:.1f} s old, {self.lost_steps[-1]} steps lost"
        print(f"kill {self.killed.total():3}: {victim:8} {lost}", flush=True)  # noqa: T201
        return victim

    def _processes(self, victim: str) -> list[psutil.Process]:
        """The processes of a victim that talk to our server."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                ours = process.environ().get("PREFECT_HOME") == str(self.home)
                if ours and any(mark in words for mark in MARKS[victim]):
                    found.append(process)
        return found

    def _watch(self, root: Path) -> None:
        """Look at what is finished and what is in hand; to be called many times a second."""
        now, in_hand = time.monotonic(), set[Path]()
        for path in (path for pattern in IN_HAND for path in root.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):  # who was killed left it as it was
                in_hand.update({path} if path.stat().st_mtime > self._last_kill_s else ())
        for path in set(self._since) - in_hand:
            self.longest_s = max(self.longest_s, now - self._since.pop(path))
        for path in in_hand:
            self._since.setdefault(path, now)
        for path in (path for pattern in FINISHED for path in root.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that is no longer kept
                mark = (path.stat().st_ino, path.stat().st_mtime_ns)
                if self._finished.setdefault(path, mark) != mark:
                    self.made_again.append(str(path.relative_to(self.home)))
                    self._finished[path] = mark


def steps_since_checkpoint(root: Path) -> int:
    """Count the training steps that a kill costs."""
    for metrics in root.glob("artifacts/*/training/metrics.jsonl"):
        with contextlib.suppress(ValueError, json.JSONDecodeError):
            steps = [row["step"] for row in read_jsonl(metrics)]
            kept = [int(path.name.removeprefix("step-")) for path in metrics.parent.glob("step-*")]
            if kept or not (metrics.parent.parent / "model").exists():
                return max(steps, default=0) - max(kept, default=0)
    return 0


def main() -> int:
    """Return 0 where every kill was survived, and everything is as if there had been none."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--small", action="store_true", help="a smaller demo, for a first look")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        chaos = Chaos(Path(home).resolve(), options.seed, SMALL if options.small else {})
        try:
            return disturb(chaos, options.kills)
        finally:
            if chaos.served.process.poll() is None:
                chaos.served.end()


def disturb(chaos: Chaos, kills: int) -> int:
    """Kill until enough were killed; 1 where it mattered."""
    wanted = chaos.through("undisturbed")
    print(f"undisturbed: {len(wanted)} files to compare", flush=True)  # noqa: T201
    chaos.left, chaos.runs, rounds, differing = kills, 0, 0, list[str]()
    while chaos.left:  # the demo is over before everybody has been killed: begin again in another folder
        rounds += 1
        made = chaos.through(f"round-{rounds}")
        differing += [name for name in sorted({*wanted, *made}) if wanted.get(name) != made.get(name)]
        print(f"round {rounds}: {chaos.left} kills left, {len(differing)} files differ", flush=True)  # noqa: T201
    running, lost_s, lost_steps = chaos.unfinished(), chaos.lost_s, chaos.lost_steps
    rows = {
        "kills": f"{chaos.killed.total()} ({dict(chaos.killed.most_common())})",
        "rounds of the demo": f"{rounds}, in {chaos.runs} flow runs",
        "files that differ": f"{len(differing)} {differing[:5]}",
        "made a second time": f"{len(chaos.made_again)} {chaos.made_again[:5]}",
        "shown as running": f"{len(running)} {running[:5]}",
        "work lost at a kill": f"median {statistics.median(lost_s):.1f} s, most {max(lost_s):.1f} s (the"
        f" oldest artifact in hand); the longest took {chaos.longest_s:.1f} s",
        "steps lost at a kill": f"median {statistics.median(lost_steps):.0f}, most {max(lost_steps)}",
    }
    print("\n" + "\n".join(f"{name:<22}{value}" for name, value in rows.items()))  # noqa: T201
    return 1 if differing or chaos.made_again or running else 0


if __name__ == "__main__":
    sys.exit(main())
