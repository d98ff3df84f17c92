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
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from samuel.config import parse
from samuel.popdb.songs import Song, list_songs
from tests.popdb.site import PLUGIN_FOLDER, serving
from tests.rehearsal.site import DOWNLOAD, ListSite, write_list

DIFFERENCES_SHOWN = 20


def main() -> int:
    """Run the rehearsal; the exit code of the first command that fails, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__)
    parser.add_argument("--list", type=Path, help="the song list, a CSV file; none: made-up titles")
    parser.add_argument("--songs", type=int, default=200, help="so many songs of it")
    parser.add_argument("--faults", type=float, default=0.15, help="share of the songs with a fault")
    parser.add_argument("--workers", type=int, default=2, help="songs in hand at a time")
    parser.add_argument("--clip-s", type=float, default=10.0, help="duration of what the site sends")
    parser.add_argument(
        "--heal-after-first", action="store_true", help="a second run, without passing faults"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        data = Path(folder)
        if options.list is None:
            options.list = data / "songs.csv"
            write_list(options.list, options.songs)
        values: dict[str, Any] = {
            "data": folder,
            "songs": {"source": "csv", "path": str(options.list.resolve()), "limit": options.songs},
            "download": {**DOWNLOAD, "workers": options.workers},
            "retention": {"check_space": False},  # the site's audio is shorter than the list says
        }
        (data / "settings.json").write_text(json.dumps(values))
        songs = list_songs(parse(values).songs, data).songs
        site = ListSite("", songs=songs, fault_share=options.faults, clip_s=options.clip_s)
        stack.enter_context(serving(site))
        for number in range(1 + options.heal_after_first):
            site.healed = number > 0
            print(f"\nrun {number + 1}", flush=True)  # noqa: T201
            if code := run(data, site, songs):
                return code
    return 0


def run(data: Path, site: ListSite, songs: Sequence[Song]) -> int:
    """Run the command once and print what it asked for and how the songs ended; its exit code."""
    paths = [str(PLUGIN_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"SAMUEL_TEST_SITE": site.base, "NO_PROXY": "*"}
    command = [sys.executable, "-m", "samuel.cli", "download", "--settings", str(data / "settings.json")]
    start, began_s = len(site.log), time.monotonic()
    code = subprocess.run(command, env=environment, check=False).returncode
    requests, took_s = site.log[start:], time.monotonic() - began_s
    asked = Counter(request.place for request in requests)
    counts = ", ".join(f"{asked[place]:,} {place}" for place in ("search", "page", "media", "segment"))
    lines = [f"  exit code {code}, {took_s:.1f} s", f"  requests  {counts}"]
    if requests:
        first_s = requests[0].time_s - began_s
        rate = len(songs) / (took_s - first_s)
        lines.append(f"  speed     {rate:.2f} songs/s, after {first_s:.1f} s until the first request")
    if not code:
        lines += differences(pq.read_table(data / "songs.parquet").to_pylist(), site, songs)
    print("\n".join(lines), flush=True)  # noqa: T201
    return code


def differences(rows: Sequence[dict[str, Any]], site: ListSite, songs: Sequence[Song]) -> list[str]:
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
    lines += [
        f"    {row['title']!r} ({site.fault_name(row['title'])}): {row['status']}, {row['message']}"
        for row in differing[:DIFFERENCES_SHOWN]
    ]
    return lines + [
        f"    {row['title']!r}: {row['video_title']!r} instead, {row['match_reason']}"
        for row in others[:DIFFERENCES_SHOWN]
    ]


if __name__ == "__main__":
    sys.exit(main())
