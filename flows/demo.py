"""Both flows on this machine, with a server of our own, and where to look at what they made.

`make demo` runs it on the embedded parts; `python -m flows.demo --settings FILE` on whatever the file names.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from flows.service.server import (
    UI_URL,
    ServerError,
    ensure_server,
    environment,
)
from samuel.config import Settings, read_settings
from samuel.errors import SamuelError


def main() -> int:
    """Run both flows; exit code 1 and one clear message where the user must act."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, help="JSON file; none: the embedded default")
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as training.steps=2000")
    options = parser.parse_args()
    # The terminal shows the bars and what went wrong in one line; the UI shows the log.
    os.environ.update(environment(), PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL")
    try:
        settings = read_settings(options.settings, options.overrides)
        ensure_server()
        return show(run_flows(settings))
    except (SamuelError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run_flows(settings: Settings) -> dict[str, Any]:
    """Both flows, one after the other; where their results are."""
    # Imported now, so that Prefect finds the server's address in the environment.
    from flows.build_popdb import build_popdb
    from flows.train_and_eval import train_and_eval

    dataset = build_popdb(settings)
    return {"dataset": dataset["path"], **train_and_eval(settings)}


def show(made: dict[str, Any]) -> int:
    """Print where everything is."""
    print(f"\ndataset        {made['dataset']}")
    print(f"checkpoint     {made['model']}")
    for path in made["accompaniments"]:
        print(f"accompaniment  {path}")
    print(f"report         {made['report']}")
    print(f"history        make serve, then {UI_URL}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
