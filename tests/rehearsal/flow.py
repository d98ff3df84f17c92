"""The flow build-popdb on a settings file: with the Prefect server of the environment, else our own."""

import os
import sys
from pathlib import Path

from flows.service.server import ensure_server, environment
from samuel.config import read_settings


def main(path: str) -> None:
    """Build the dataset and print what it holds."""
    if "PREFECT_API_URL" not in os.environ:
        os.environ.update(environment())
        ensure_server()
    from flows.build_popdb import build_popdb  # now, so that Prefect finds the server's address

    print(build_popdb(read_settings(Path(path))))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
