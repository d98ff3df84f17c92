"""Starts a run in a process of its own, and looks at that process, at the server and at its database."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.orchestration.work import Order, Told
from flows.service.processes import spawn
from samuel.errors import SamuelError

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE_EVERY_S = 0.1
Sample = tuple[float, int, int]
RECORD_SECONDS = 120  # the recorder has a backlog when a run of many short tasks is over


@dataclass(frozen=True)
class Server:
    """A Prefect server.

    Attributes:
        url: Of its API.
        home: Its PREFECT_HOME, where its database lies; None where that is not known.
        process: None where somebody else started it.
    """

    url: str
    home: Path | None = None
    process: psutil.Process | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that talks to it."""
        home = {"PREFECT_HOME": str(self.home)} if self.home else {}
        return {**os.environ, **home, "PREFECT_API_URL": self.url, "DO_NOT_TRACK": "1"}

    def database_bytes(self) -> int | None:
        """What its database takes on disk, with what SQLite has yet to move into it."""
        return sum(path.stat().st_size for path in self.home.glob("prefect.db*")) if self.home else None

    def cpu_s(self) -> float | None:
        """Processor time that it has used."""
        return _cpu_s(self.process) if self.process else None

    def ask(self, what: str, body: dict[str, Any]) -> Any:
        """What it answers to a POST."""
        request = urllib.request.Request(  # noqa: S310  (http, ours)
            f"{self.url}/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def recorded(self, flow_run: str, states: Counter[str]) -> Counter[str]:
        """The task runs of a flow run by the name of their state, once they are those the client ended.

        Where they never are, what there is when the server has had time enough.
        """
        deadline = time.monotonic() + RECORD_SECONDS
        while True:
            found = self._counted(flow_run, states)
            if found == states or time.monotonic() > deadline:
                return found
            time.sleep(0.3)

    def _counted(self, flow_run: str, states: Counter[str]) -> Counter[str]:
        of_run = {"flow_runs": {"id": {"any_": [flow_run]}}}
        found = Counter[str]()
        for name in states:
            found[name] = self.ask(
                "task_runs/count", of_run | {"task_runs": {"state": {"name": {"any_": [name]}}}}
            )
        if others := self.ask("task_runs/count", of_run) - found.total():
            found["in other states"] = others
        return found


@dataclass(frozen=True)
class Run:
    """A run that was measured.

    Attributes:
        wall_s: Of the whole process, its imports and the sending of its last states included.
        cpu_s: Processor time of the process.
        server_cpu_s: What the server used meanwhile; None where it is not ours.
        told: What the process said.
        memory: When, in seconds since the epoch, how many bytes of the process were resident, and how many
            of these were pages of files, such as libraries.
    """

    wall_s: float
    cpu_s: float
    server_cpu_s: float | None
    told: Told
    memory: list[Sample] = field(repr=False)

    @property
    def states(self) -> Counter[str]:
        """Task runs by the name of the state that the process ended them in."""
        return Counter(state for _, state, _ in self.told.ends)

    @property
    def inside_s(self) -> float:
        """From the call of the flow, or of the loop, to its return."""
        return self.told.ended - self.told.began

    def memory_at(self, share: float) -> int:
        """Most resident bytes around the end of this share of the task runs."""
        ends = sorted(when for _, _, when in self.told.ends)
        when = ends[min(len(ends) - 1, round(share * len(ends)))]
        near = sorted(self.memory, key=lambda sample: abs(sample[0] - when))[:5]
        return max(size for _, size, _ in near)

    @property
    def peak(self) -> Sample:
        """The sample with most resident bytes until the run has ended.

        While a process leaves, torch's libraries touch a hundred mebibytes of their own files for a tenth of
        a second, whatever was done with them.
        """
        return max((sample for sample in self.memory if sample[0] <= self.told.ended), key=lambda s: s[1])


def measured(kind: str, order: Order, folder: Path, server: Server) -> Run:
    """Run the flow, or the loop, in a process of its own, which is looked at while it runs.

    Args:
        kind: "flow" or "loop".
        order: What to run.
        folder: Where what is told lies.
        server: The flow's.

    Raises:
        SamuelError: The process failed; names its log.
    """
    given, result, log = folder / "order.json", folder / "told.json", folder / f"{kind}.log"
    order.write(given)
    command = [sys.executable, "-m", "flows.orchestration.work", kind, str(given), str(result)]
    before, started = server.cpu_s(), time.perf_counter()
    process = spawn(command, ROOT, server.environment, log)
    memory, cpu_s = _watch(process)
    wall_s, after = time.perf_counter() - started, server.cpu_s()
    if process.returncode != 0:
        raise SamuelError(f"the measured {kind} failed; see {log}:\n{log.read_text()[-1500:]}")
    told = Told(**json.loads(result.read_text("utf-8")))
    spent_s = None if before is None or after is None else after - before
    return Run(wall_s, cpu_s, spent_s, told, memory)


def _watch(process: "subprocess.Popen[bytes]") -> tuple[list[Sample], float]:
    """Memory over time, and the processor time, of a process that is waited for."""
    memory: list[Sample] = []
    cpu_s, looked_at = 0.0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            info = looked_at.memory_info()
            memory.append((time.time(), info.rss, getattr(info, "shared", 0)))
            cpu_s = _cpu_s(looked_at)
        except psutil.NoSuchProcess:
            continue
        time.sleep(SAMPLE_EVERY_S)
    return memory, cpu_s


def _cpu_s(process: psutil.Process) -> float:
    """Of a process and its children."""
    family = [process, *process.children(recursive=True)]
    return sum(times.user + times.system for times in (member.cpu_times() for member in family))
