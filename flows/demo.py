"""Both flows on this machine, with a server of our own, and where to look at what they made.

    python -m flows.demo [--settings FILE] [training.steps=2000 …]

`make demo` runs it on the embedded parts.
"""

import argparse
import os
import sys
from pathlib import Path

from flows.server import UI_URL, ensure_server, environment
from samuel.config import read_settings
from samuel.errors import SamuelError


def main() -> int:
    """Run both flows; exit code 1 and one clear message where the user must act."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo", description="Run both flows here.")
    parser.add_argument("--settings", type=Path, help="JSON file; none: the embedded default")
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as training.steps=2000")
    options = parser.parse_args()
    try:
        # The terminal shows the bars and what went wrong in one line; the UI shows the log.
        os.environ.update(environment(), PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL")
        settings = read_settings(options.settings, options.overrides)
        ensure_server()
        # Imported now, so that Prefect finds the server's address in the environment.
        from flows.build_popdb import build_popdb
        from flows.train_and_eval import train_and_eval

        dataset, made = build_popdb(settings=settings), train_and_eval(settings=settings)
    except SamuelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\ndataset        {dataset['path']}\ncheckpoint     {made['model']}")
    for path in made["accompaniments"]:
        print(f"accompaniment  {path}")
    print(f"report         {made['report']}\nhistory        make serve, then {UI_URL}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
