"""Rehearse the acquisition of a song list: the real command, real yt-dlp, a local site with faults.

    python -m tests.rehearsal --list song_data.csv --songs 200 --faults 0.15 --heal-after-first

Every video of the site has a sound of its own, so no two songs are the same recording.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from samuel.config import Settings, parse
from samuel.popdb.dataset import open_popdb
from samuel.popdb.songs import Song, list_songs
from tests.popdb.site import PLUGIN_FOLDER, serving
from tests.rehearsal.made_up import write_list
from tests.rehearsal.site import DOWNLOAD, ListSite, Request

SAMPLE_S = 0.2
WARM = 100  # searches until memory counts as growth
DIFFERENCES_SHOWN = 20


@dataclass(frozen=True)
class Run:
    """What one run of the command did.

    Attributes:
        code: Exit code.
        began_s: When it began, monotonic clock.
        ended_s: When it ended.
        requests: What it asked the site for.
        memory: (searches so far, resident MiB of the process), sampled.
    """

    code: int
    began_s: float
    ended_s: float
    requests: list[Request]
    memory: list[tuple[int, float]]


def main() -> int:
    """Run the rehearsal; the exit code of the first command that fails, else 0."""
    options = _options()
    with contextlib.ExitStack() as stack:
        data = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data.mkdir(parents=True, exist_ok=True)
        if options.list is None:
            options.list = data / "songs.csv"
            write_list(options.list, options.songs)
        values = _settings(options, data.resolve())
        path = data / "settings.json"
        path.write_text(json.dumps(values, indent=1))
        settings = parse(values)
        songs = list_songs(settings.songs, settings.data).songs
        site = ListSite("", songs=songs, fault_share=options.faults, clip_s=options.clip_s)
        stack.enter_context(serving(site))
        for number in range(1 + options.heal_after_first):
            if number:
                site.heal()
            run = _run(_command(path, flow=options.flow), site)
            lines = _figures(number + 1, run, songs)
            if not run.code:
                lines += _comparison(_rows(settings, flow=options.flow), site, songs)
            print("\n".join(lines), flush=True)  # noqa: T201
            if run.code:
                return run.code
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__)
    parser.add_argument("--list", type=Path, help="the song list, a CSV file; none: made-up titles")
    parser.add_argument("--songs", type=int, default=200, help="so many songs of it")
    parser.add_argument("--faults", type=float, default=0.15, help="share of the songs with a fault")
    parser.add_argument("--workers", type=int, default=2, help="songs in hand at a time")
    parser.add_argument("--clip-s", type=float, default=10.0, help="duration of what the site sends")
    parser.add_argument("--data", type=Path, help="data folder; none: a temporary one")
    parser.add_argument(
        "--heal-after-first", action="store_true", help="a second run, without passing faults"
    )
    parser.add_argument(
        "--flow", action="store_true", help="the whole flow build-popdb, on the embedded parts"
    )
    return parser.parse_args()


def _settings(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    return {
        "data": str(data),
        "songs": {"source": "csv", "path": str(options.list.resolve()), "limit": options.songs},
        "download": {**DOWNLOAD, "workers": options.workers},
        "popdb": {"chunk_frames": 128},
        "retention": {"check_space": False},  # the site's audio is shorter than the list says
    }


def _command(settings: Path, *, flow: bool) -> list[str]:
    if flow:
        return [sys.executable, "-m", "tests.rehearsal.flow", str(settings)]
    return [sys.executable, "-m", "samuel.cli", "download", "--settings", str(settings)]


def _run(command: Sequence[str], site: ListSite) -> Run:
    paths = [str(PLUGIN_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"SAMUEL_TEST_SITE": site.base, "NO_PROXY": "*"}
    start, began_s = len(site.log), time.monotonic()
    memory: list[tuple[int, float]] = []
    with subprocess.Popen(command, env=environment) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                searched = sum(request.place == "search" for request in site.log[start:])
                memory.append((searched, watched.memory_info().rss / 2**20))
            time.sleep(SAMPLE_S)
    return Run(process.returncode, began_s, time.monotonic(), site.log[start:], memory)


def _figures(number: int, run: Run, songs: Sequence[Song]) -> list[str]:
    asked = Counter(request.place for request in run.requests)
    counts = ", ".join(f"{asked[place]:,} {place}" for place in ("search", "page", "media", "segment"))
    lines = [
        f"\nrun {number}: exit code {run.code}, {run.ended_s - run.began_s:.1f} s",
        f"  requests  {counts}",
    ]
    if run.requests:
        first_s = run.requests[0].time_s
        rate, wait_s = len(songs) / (run.ended_s - first_s), first_s - run.began_s
        lines.append(f"  speed     {rate:.2f} songs/s, after {wait_s:.1f} s until the first request")
    return [*lines, f"  memory    {_growth(run.memory)}"]


def _growth(memory: Sequence[tuple[int, float]]) -> str:
    searched, peak = memory[-1][0], max(mib for _, mib in memory)
    if searched <= WARM:
        return f"{peak:.0f} MiB at the peak"
    early, half, last = (
        next(mib for done, mib in memory if done >= songs) for songs in (WARM, searched / 2, searched)
    )
    return (
        f"{early:.0f} MiB after {WARM} searches, {half:.0f} after half, {last:.0f} after the last, "
        f"{peak:.0f} at the peak"
    )


def _rows(settings: Settings, *, flow: bool) -> list[dict[str, Any]]:
    if flow:
        return open_popdb(settings.popdb_path).songs().to_pylist()
    return pq.read_table(settings.data / "songs.parquet").to_pylist()


def _comparison(rows: Sequence[dict[str, Any]], site: ListSite, songs: Sequence[Song]) -> list[str]:
    """Where a song ended otherwise than the site has it, or with another video."""
    listed = {song.song_id: song for song in songs}
    recordings = len({row["recording"] for row in rows if row["recording"]})
    kept = [row for row in rows if row["video_id"]]
    differing = [row for row in rows if row["status"] != site.expected(row["title"])]
    others = [row for row in kept if row["video_id"] != site.right(listed[row["song_id"]])]
    lines = [
        f"  outcomes  {len(rows):,} songs, {len(differing):,} not as the site has it",
        f"  audio     of {len(kept):,} songs, {recordings:,} recordings; {len(others):,} of another video",
    ]
    for row in differing[:DIFFERENCES_SHOWN]:
        fault = site.faults.get(row["title"])
        name = fault.name if fault else "no fault"
        lines.append(f"    {row['title']!r} ({name}): {row['status']}, {row['message']}")
    return lines + [
        f"    {row['title']!r}: {row['video_title']!r} instead, {row['match_reason']}"
        for row in others[:DIFFERENCES_SHOWN]
    ]


if __name__ == "__main__":
    sys.exit(main())
