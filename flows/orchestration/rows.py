"""The figures: what was measured, beside what was to be reached."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flows.orchestration.measure import Run, Server, measured
from flows.orchestration.work import Order

Row = tuple[str, str]

SONGS_AN_HOUR = 300
"""What a guest may download: no stage of the real run is slower on a GPU."""
ORCHESTRATION_SHARE, MEMORY_BYTES, DATABASE_BYTES, RERUN_S = 0.01, 2**30, 500e6, 60.0
AFTER, LAST_SONGS = 0.1, 0.99
"""Memory is compared between these: before, libraries are imported; after, the dataset is written."""


def rows(order: Order, folder: Path, server: Server) -> Iterator[Row]:
    """Yield (what, figure), as they are measured.

    Args:
        order: What to run.
        folder: For everything that is written.
        server: A Prefect server without a run of this data.

    Raises:
        SamuelError: A run failed.
    """
    elsewhere = replace(order, data=folder / "without-prefect")
    yield "machine", f"{os.cpu_count()} processors, busy with {os.getloadavg()[0]:.1f} tasks before we began"
    yield "stages", f"stand-ins, which sleep {order.sleep_s:g} s a song and write small files"
    before = server.database_bytes()
    alone = measured("loop", elsewhere, folder, server)
    yield "a plain loop, without Prefect", _times(alone)
    first = measured("flow", order, folder, server)
    songs = first.told.counts["songs_listed"]
    yield "songs", f"{songs:,}, of which {first.told.counts['songs_kept']:,} kept, one pair each"
    yield "the flow", _times(first)
    yield from _cost(first, alone, songs)
    yield from _memory(first)
    yield from history("the server's task runs", first, server)
    after = server.database_bytes()
    yield "database", _size(after, before, DATABASE_BYTES)
    yield from _again(order, elsewhere, folder, server)
    yield "database growth by the rerun", _size(server.database_bytes(), after, None)


def _again(order: Order, elsewhere: Order, folder: Path, server: Server) -> Iterator[Row]:
    """The same run over the finished dataset."""
    yield "rerun: a plain loop", _times(measured("loop", elsewhere, folder, server))
    rerun = measured("flow", order, folder, server)
    yield "rerun: the flow", f"{_times(rerun)}; {_goal(rerun.wall_s < RERUN_S, f'under {RERUN_S:.0f} s')}"
    yield "rerun: memory at its peak", _peak(rerun)
    yield from history("rerun: the server's task runs", rerun, server)


def _cost(first: Run, alone: Run, songs: int) -> Iterator[Row]:
    """What the flow takes more than the loop, by the clock, and by the processors of both processes."""
    tasks, real_s = len(first.told.ends), 3600 * songs / SONGS_AN_HOUR
    extra_s = first.wall_s - alone.wall_s
    goal = _goal(extra_s < ORCHESTRATION_SHARE * real_s, f"under {ORCHESTRATION_SHARE:.0%}")
    yield "orchestration: flow less loop", f"{extra_s:.1f} s, {1000 * extra_s / tasks:.0f} ms for a task run"
    cpu_s = first.cpu_s - alone.cpu_s
    server = "" if first.server_cpu_s is None else f", the server {first.server_cpu_s:.1f} s"
    yield "its processor time", f"the flow {cpu_s:.1f} s more than the loop{server}"
    real = f"{real_s / 3600:.1f} h, at {SONGS_AN_HOUR} songs an hour"
    yield "share of the real run", f"{extra_s / real_s:.3%} of {real}; {goal}"


def _memory(run: Run) -> Iterator[Row]:
    tenth, last = run.memory_at(AFTER), run.memory_at(LAST_SONGS)
    yield "memory after a tenth of the tasks", f"{_mebibytes(tenth)}, {_mebibytes(last)} after the last songs"
    yield "memory at its peak", _peak(run)


def _peak(run: Run) -> str:
    _, most, of_files = run.peak
    told = f"{_mebibytes(most)}, of which {_mebibytes(of_files)} pages of libraries"
    return f"{told}; {_goal(most < MEMORY_BYTES, 'under 1 GiB')}"


def history(what: str, run: Run, server: Server) -> Iterator[Row]:
    """Task runs by state, the server's against those that the process ended."""
    found = server.recorded(run.told.flow_run, run.states)
    same = "the same as the client's" if found == run.states else f"NOT the client's: {_counted(run.states)}"
    yield what, f"{_counted(found)}; {same}"


def _counted(states: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(states.items()) if count) or "none"


def _times(run: Run) -> str:
    imports_s = run.wall_s - run.inside_s
    return f"{run.wall_s:.1f} s, of which imports and leaving {imports_s:.1f} s; processor {run.cpu_s:.1f} s"


def _size(now: int | None, before: int | None, bound: float | None) -> str:
    if now is None or before is None:
        return "not measured: another's server"
    grown = f"{(now - before) / 1e6:.1f} MB"
    return (
        grown if bound is None else f"{grown}; {_goal(now - before < bound, f'under {bound / 1e6:.0f} MB')}"
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _goal(reached: bool, bound: str) -> str:
    return f"{bound}: {'yes' if reached else 'NO'}"
