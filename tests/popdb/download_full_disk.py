"""Songs acquired on a disk that gets full; run in a mount namespace, with the data folder on a small disk.

`python -m tests.popdb.download_full_disk SETTINGS BYTES…` prints, for each number of bytes left on the disk:
what became of the run, and of the one that followed when there was room again.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from samuel.config import Settings
from samuel.errors import SamuelError
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from tests.popdb.site import yt_dlp_plugin


def run(settings: Settings, *titles: str) -> Any:
    """Status by song, or the error that stopped the run."""
    parts = Parts(settings)
    parts.rate_limiter.start_run()
    try:
        outcomes = acquire_songs([Song(title, title) for title in titles], parts)
    except (SamuelError, OSError) as error:
        return [type(error).__name__, str(error)]
    return [outcome.status for outcome in outcomes]


def fill(folder: Path, left_bytes: int) -> Path:
    """A file that leaves so much of the disk free."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(folder).free - left_bytes))
    return ballast


def audio(settings: Settings) -> dict[str, int]:
    """Size of each audio file under its final name."""
    files = settings.data.glob("raw/[!.]*/audio.wav")
    return {path.parent.name: path.stat().st_size for path in files}


def steps(settings: Settings, left: list[int]) -> list[dict[str, Any]]:
    """One step for each number of bytes: a song before, a song on the full disk, both again."""
    made: list[dict[str, Any]] = []
    for number, left_bytes in enumerate(left):
        old, new = f"Old {number}", f"New {number}"
        step: dict[str, Any] = {"before": run(settings, old), "kept": audio(settings)}
        ballast = fill(settings.data, left_bytes)
        step["full"] = run(settings, old, new)
        step["audio"] = audio(settings)
        ballast.unlink()
        made.append(step | {"after": run(settings, old, new)})
    return made


if __name__ == "__main__":
    with yt_dlp_plugin():
        print(json.dumps(steps(Settings.model_validate_json(sys.argv[1]), [int(n) for n in sys.argv[2:]])))  # noqa: T201
