"""A training in a process of its own, or in several: `python -m tests.train.together ROOT SETTINGS RUN`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from samuel.errors import SamuelError
from samuel.popdb.dataset import open_popdb
from samuel.train import fit
from tests.lines import append_line
from tests.popdb.latents import small_settings


def main(root: Path, sections: dict[str, Any], run: Path) -> int:
    """Fit, and write the metrics of each step to `run`/steps.jsonl; 3 where it ends in an error."""
    settings = small_settings(root, **sections)

    def on_step(row: dict[str, Any]) -> None:
        append_line(run / "steps.jsonl", row)
        time.sleep(0.02)  # for signals to come in the middle

    try:
        fit(open_popdb(settings.popdb_path), settings, run, on_step)
    except SamuelError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])))
