"""What Prefect costs over a long song list: `python -m benchmarks.orchestration --songs 1000`.

A flow of three stages, submitted, gathered and shown by `flows` as build-popdb does it, against a plain loop
over the same stages, which only sleep and write a small artifact a song. Each runs twice, the second time
over what is there, in a process of its own, with a server of its own.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from samuel.artifacts import make_artifact, read_json, write_json
from samuel.config import Settings, parse
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status

FULL_LIST = 13_987  # recordings of the Kaggle list
STAGES = ("download", "separate", "encode")
THREADS = 3  # as the flow has
SONGS_AN_HOUR = 300  # what a guest may download: no stage of the real run is slower on a GPU
SHARE, MEMORY_BYTES, DATABASE_BYTES, RERUN_S = 0.01, 2**30, 500e6, 60.0  # what is to be reached
RECORD_S = 120  # the recorder has a backlog when a run of many short tasks is over
Row = tuple[str, str]


@dataclass
class Measured:
    """A run, as its process and the one that watched it saw it.

    Attributes:
        states: Of the task runs that the process ended, by name.
        flow_run: Its id on the server; empty for a loop.
        wall_s: Of the whole process, its imports and the sending of its last states included.
        cpu_s: Processor time of the process.
        peak_bytes: Most resident memory.
    """

    states: dict[str, int] = field(default_factory=dict)
    flow_run: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def work_on(song: Song, stage: str, settings: Settings, sleep_s: float) -> Outcome:
    """Stand for a stage: sleep, and write an artifact whose record has about the size of a real one."""

    def make(folder: Path) -> dict[str, Any]:
        time.sleep(sleep_s)
        (folder / "data").write_text(song.title)
        return {"fingerprint": hashlib.sha256(song.title.encode()).hexdigest() * 60}

    artifact = make_artifact(settings.data / stage / song.song_id, make)
    return Outcome(song, stage, Status.OK, "", 1, artifact, artifact.record, did_work=artifact.made)


def made_up(songs: int) -> list[Song]:
    """Make the songs of a list."""
    names = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(songs))
    return [Song(name[:20], f"Title {name}", duration_s=211.0) for name in names]


def run_loop(settings: Settings, songs: Sequence[Song], sleep_s: float) -> Measured:
    """Run the stages by threads alone."""

    def through(song: Song) -> None:
        for stage in STAGES:
            work_on(song, stage, settings, sleep_s)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(through, songs))
    return Measured()


def run_flow(settings: Settings, songs: Sequence[Song], sleep_s: float) -> Measured:
    """Run the stages as the tasks of a flow."""
    from prefect import Task, flow
    from prefect.cache_policies import NO_CACHE
    from prefect.runtime import flow_run

    from flows.artifacts import SongProgress
    from flows.runner import workers
    from flows.tasks import RETRIED, Group, gather, groups, shown_songs, submit

    states = Counter[str]()

    def count(_task: Any, _run: Any, state: Any) -> None:
        states[state.name] += 1

    def stage_task(name: str) -> Any:
        def run(songs: Sequence[Any], parts: Parts, group: str) -> Group[Outcome]:
            listed = (song.song if isinstance(song, Outcome) else song for song in songs)
            return shown_songs([work_on(song, name, parts.settings, sleep_s) for song in listed])

        options: dict[str, Any] = {**RETRIED, "cache_policy": NO_CACHE, "on_completion": [count]}
        return Task(run, name=name, task_run_name=f"{name} {{group}}", **options)

    @flow(name="orchestration")
    def measured() -> str:
        parts = Parts(settings)
        with workers(settings, THREADS) as team:
            tasks = [stage_task(name) for name in STAGES]
            progress = SongProgress(songs, settings)
            gather(submit(team, tasks, parts, groups(songs, settings)), progress.add)
        return str(flow_run.id)

    run = measured()
    return Measured(dict(states), run)


def measure(kind: str, data: Path, songs: int, sleep_s: float) -> Measured:
    """Run the flow or the loop in a process of its own, which is looked at while it runs."""
    result = data.parent / "result.json"
    command = [sys.executable, "-m", "benchmarks.orchestration", "--run", kind, str(data), str(result)]
    command += ["--songs", str(songs), "--seconds", str(sleep_s)]
    started, peak, cpu_s = time.perf_counter(), 0, 0.0
    with (data.parent / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    looked_at = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, looked_at.memory_info().rss)
            cpu_s = sum(looked_at.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"error: the measured {kind} failed\n{(data.parent / 'log').read_text()[-1500:]}")
    told = Measured(**read_json(result))
    told.wall_s, told.cpu_s, told.peak_bytes = time.perf_counter() - started, cpu_s, peak
    return told


def recorded(run: Measured) -> Counter[str]:
    """Count a run's task runs on the server by state, once they are those that its process ended."""
    from flows.server import ask

    deadline = time.monotonic() + RECORD_S
    while True:
        of_run = {"flow_runs": {"id": {"any_": [run.flow_run]}}}
        found = Counter[str]()
        for name in run.states:
            wanted = {"task_runs": {"state": {"name": {"any_": [name]}}}}
            found[name] = ask("/task_runs/count", of_run | wanted)
        if others := ask("/task_runs/count", of_run) - found.total():
            found["in other states"] = others
        if found == run.states or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


def rows(songs: int, sleep_s: float, home: Path) -> Iterator[Row]:
    """Yield (what, figure), as they are measured."""
    database = home / "prefect"
    yield "machine", f"{os.cpu_count()} processors, busy with {os.getloadavg()[0]:.1f} tasks before we began"
    yield "stages", f"stand-ins for {songs:,} songs, which sleep {sleep_s:g} s and write a small artifact"
    for rerun in (False, True):
        before, name = size_of(database), "rerun" if rerun else "run"
        loop = measure("loop", home / "loop", songs, sleep_s)
        flow = measure("flow", home / "flow", songs, sleep_s)
        yield f"{name}: the plain loop", f"{loop.wall_s:.1f} s, processor {loop.cpu_s:.1f} s"
        goal = f"; {reached(flow.wall_s < RERUN_S, f'under {RERUN_S:.0f} s')}" if rerun else ""
        yield f"{name}: the flow", f"{flow.wall_s:.1f} s, processor {flow.cpu_s:.1f} s{goal}"
        if not rerun:
            extra_s, real_s = flow.wall_s - loop.wall_s, 3600 * songs / SONGS_AN_HOUR
            tasks = sum(flow.states.values())
            yield (
                "flow less loop",
                f"{extra_s:.1f} s, {1000 * extra_s / tasks:.0f} ms for each of {tasks} tasks",
            )
            goal = reached(extra_s < SHARE * real_s, f"under {SHARE:.0%}")
            yield "share of the real run", f"{extra_s / real_s:.3%} of {real_s / 3600:.1f} h; {goal}"
        memory = reached(flow.peak_bytes < MEMORY_BYTES, "under 1 GiB")
        yield f"{name}: memory at its peak", f"{flow.peak_bytes / 2**20:,.0f} MiB; {memory}"
        found = recorded(flow)
        same = "the same as the client's" if found == flow.states else f"NOT the client's: {flow.states}"
        yield f"{name}: the server's task runs", f"{dict(found)}; {same}"
        grown = size_of(database) - before
        goal = reached(grown < DATABASE_BYTES, f"under {DATABASE_BYTES / 1e6:.0f} MB")
        yield f"{name}: growth of the database", f"{grown / 1e6:.1f} MB; {goal}"


def size_of(database: Path) -> int:
    """Return the bytes of SQLite's files, with what it has yet to move into the database."""
    return sum(path.stat().st_size for path in database.glob("prefect.db*"))


def reached(yes: bool, bound: str) -> str:
    """Say whether a bound is kept."""
    return f"{bound}: {'yes' if yes else 'NO'}"


def main() -> int:
    """Print figure by figure, as they are measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("--songs", type=int, default=FULL_LIST, help="how many")
    parser.add_argument("--seconds", type=float, default=0.0, help="what a stage sleeps for each song")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        kind, data, result = options.run
        settings = parse({"data": data, "device": "cpu"})
        run = partial(run_flow if kind == "flow" else run_loop, settings, made_up(options.songs))
        write_json(Path(result), asdict(run(options.seconds)))
        return 0
    with tempfile.TemporaryDirectory(prefix="samuel-orchestration-") as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        home, port = Path(name), probe.getsockname()[1]
        probe.close()
        # What a person has set for their own server, its database above all, is not for this one.
        for variable in [variable for variable in os.environ if variable.startswith("PREFECT_")]:
            del os.environ[variable]
        os.environ.update(PREFECT_HOME=str(home / "prefect"), SAMUEL_PREFECT_PORT=str(port))
        from flows import processes, server  # only now: the port is read when it is imported

        os.environ.update(server.environment())
        process = server.start_server()
        try:
            server.wait_until_healthy(process)
            for what, figure in rows(options.songs, options.seconds, home):
                print(f"{what:<32}  {figure}", flush=True)
        finally:
            processes.stop(process)
    return 0


if __name__ == "__main__":
    sys.exit(main())
