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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from samuel.artifacts import make_artifact
from samuel.config import Settings, parse
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status

FULL_LIST = 13_987  # recordings of the Kaggle list
STAGES = ("download", "separate", "encode")
THREADS = 3  # as the flow has
SONGS_AN_HOUR = 300  # what a guest may download: no stage of the real run is slower on a GPU


@dataclass(frozen=True)
class Measured:
    """A run, as the one that watched its process saw it."""

    wall_s: float  # of the whole process, its imports and the sending of its last states included
    cpu_s: float
    peak_bytes: int


def work_on(song: Song, stage: str, settings: Settings, sleep_s: float) -> Outcome:
    """Stand for a stage: sleep, and write an artifact whose record has about the size of a real one."""

    def make(folder: Path) -> dict[str, Any]:
        time.sleep(sleep_s)
        (folder / "data").write_text(song.title)
        return {"fingerprint": hashlib.sha256(song.title.encode()).hexdigest() * 60}

    artifact = make_artifact(settings.data / stage / song.song_id, make)
    return Outcome(song, stage, Status.OK, "", 1, artifact, artifact.record, did_work=artifact.made)


def run_loop(settings: Settings, songs: Sequence[Song], sleep_s: float) -> None:
    """Run the stages by threads alone."""
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda song: [work_on(song, stage, settings, sleep_s) for stage in STAGES], songs))


def run_flow(settings: Settings, songs: Sequence[Song], sleep_s: float) -> None:
    """Run the stages as the tasks of a flow."""
    from prefect import Task, flow
    from prefect.cache_policies import NO_CACHE

    from flows import tasks
    from flows.artifacts import SongProgress
    from flows.runner import workers

    def stage_task(name: str) -> Any:
        def run(songs: Sequence[Any], parts: Parts, group: str) -> tasks.Group[Outcome]:
            listed = (song.song if isinstance(song, Outcome) else song for song in songs)
            return tasks.shown_songs([work_on(song, name, parts.settings, sleep_s) for song in listed])

        options: dict[str, Any] = {**tasks.RETRIED, "cache_policy": NO_CACHE}
        return Task(run, name=name, task_run_name=f"{name} {{group}}", **options)

    @flow(name="orchestration")
    def measured() -> None:
        with workers(settings, THREADS) as team:
            stages, groups = [stage_task(name) for name in STAGES], tasks.groups(songs, settings)
            progress = SongProgress(songs, settings)
            tasks.gather(tasks.submit(team, stages, Parts(settings), groups), progress.add)

    measured()


def measure(kind: str, data: Path, songs: int, sleep_s: float) -> Measured:
    """Run the flow or the loop in a process of its own, which is looked at while it runs."""
    log = data.parent / "log"
    command = [sys.executable, "-m", "benchmarks.orchestration", "--run", kind, str(data)]
    command += ["--songs", str(songs), "--seconds", str(sleep_s)]
    started, peak, cpu_s = time.perf_counter(), 0, 0.0
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    looked_at = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            peak, cpu_s = max(peak, looked_at.memory_info().rss), sum(looked_at.cpu_times()[:2])
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"error: the measured {kind} failed\n{log.read_text()[-1500:]}")
    return Measured(time.perf_counter() - started, cpu_s, peak)


def rows(songs: int, sleep_s: float, home: Path) -> Iterator[tuple[str, str]]:
    """Yield (what, figure), as they are measured."""

    def database_bytes() -> int:  # of SQLite's files, with what it has yet to move into the database
        return sum(path.stat().st_size for path in (home / "prefect").glob("prefect.db*"))

    yield "machine", f"{os.cpu_count()} processors, busy with {os.getloadavg()[0]:.1f} tasks before we began"
    yield "stages", f"stand-ins for {songs:,} songs, which sleep {sleep_s:g} s and write a small artifact"
    for name in ("run", "rerun"):
        before = database_bytes()
        loop = measure("loop", home / "loop", songs, sleep_s)
        flow = measure("flow", home / "flow", songs, sleep_s)
        yield f"{name}: the plain loop", f"{loop.wall_s:.1f} s, processor {loop.cpu_s:.1f} s"
        yield f"{name}: the flow", f"{flow.wall_s:.1f} s, processor {flow.cpu_s:.1f} s"
        if name == "run":
            extra_s, real_s = flow.wall_s - loop.wall_s, 3600 * songs / SONGS_AN_HOUR
            yield "share of the real run", f"{extra_s:.1f} s, {extra_s / real_s:.3%} of {real_s / 3600:.1f} h"
        yield f"{name}: memory at its peak", f"{flow.peak_bytes / 2**20:,.0f} MiB"
        yield f"{name}: growth of the database", f"{(database_bytes() - before) / 1e6:.1f} MB"


def main() -> int:
    """Print figure by figure, as they are measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("--songs", type=int, default=FULL_LIST, help="how many")
    parser.add_argument("--seconds", type=float, default=0.0, help="what a stage sleeps for each song")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        kind, data = options.run
        names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(options.songs)]
        songs = [Song(name[:20], f"Title {name}", duration_s=211.0) for name in names]
        run = run_flow if kind == "flow" else run_loop
        run(parse({"data": data, "device": "cpu"}), songs, options.seconds)
        return 0
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="samuel-orchestration-") as name:
        # What a person has set for their own server, its database above all, is not for this one.
        for variable in [variable for variable in os.environ if variable.startswith("PREFECT_")]:
            del os.environ[variable]
        os.environ.update(PREFECT_HOME=str(Path(name) / "prefect"), SAMUEL_PREFECT_PORT=str(port))
        from flows import processes, server  # only now: the port is read when it is imported

        os.environ.update(server.environment())
        process = server.start_server()
        try:
            server.wait_until_healthy(process)
            for what, figure in rows(options.songs, options.seconds, Path(name)):
                print(f"{what:<32}  {figure}", flush=True)
        finally:
            processes.stop(process)
    return 0


if __name__ == "__main__":
    sys.exit(main())
