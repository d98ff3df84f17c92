"""Write a dataset on a small disk that has more and more room.

Run as a program: `python -m tests.popdb.writer_full_disk LATENTS DISK`; prints a JSON line for every amount
of room, the last with enough of it.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from samuel.errors import OperatorError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import digests, encoded_song, small_settings


def main(latents: Path, disk: Path) -> None:
    torch.set_num_threads(1)
    settings = small_settings(latents, popdb={"path": str(disk / "popdb"), "pairs_per_shard": 4})
    old = write_popdb([encoded_song(latents, name) for name in "ab"], settings)
    content = old.info["content_sha256"]
    more = [encoded_song(latents, name) for name in "abcdef"]
    before = digests(old.root)
    for room in range(0, 400_000, 30_000):
        left = shutil.disk_usage(disk).free - room
        (disk / "filler").write_bytes(bytes(max(0, left)))
        error = ""
        try:
            write_popdb(more, settings)
        except OperatorError as raised:
            error = f"{type(raised).__name__}: {raised}"
        whole = "old" if open_popdb(old.root).info["content_sha256"] == content else "new"
        found = {"room": room, "error": error, "whole": whole, "left": digests(old.root), "before": before}
        sys.stdout.write(json.dumps(found) + "\n")
        if not error:
            return
        (disk / "filler").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
