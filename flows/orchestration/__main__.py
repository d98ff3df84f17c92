"""`samuel bench orchestration`: a server of its own, four runs over the list, and the pages of the UI."""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import psutil

from flows.orchestration.measure import Server
from flows.orchestration.pages import page_rows
from flows.orchestration.rows import rows
from flows.orchestration.stand_ins import FULL_LIST, write_list
from flows.orchestration.work import Order
from flows.service.processes import stop
from samuel.errors import InputError, SamuelError


def main() -> int:
    """Print figure by figure, as they are measured; 1 and one message where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", type=Path, help="song list, a CSV file; none: made-up titles")
    parser.add_argument("--songs", type=int, help=f"how many; none: all of the list, {FULL_LIST:,} made up")
    parser.add_argument("--seconds", type=float, default=0.0, help="what a stand-in sleeps for each song")
    options = parser.parse_args()
    try:
        _require_sensible(options)
        with tempfile.TemporaryDirectory(prefix="samuel-orchestration-") as name:
            folder = Path(name)
            order = Order(folder / "data", _song_list(options, folder), options.songs, options.seconds)
            with own_server(folder / "prefect") as server:
                for what, figure in chain(rows(order, folder, server), page_rows(server)):
                    print(f"{what:<38}  {figure}", flush=True)
    except SamuelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def own_server(home: Path) -> Iterator[Server]:
    """A server with a home and a database of its own, until the block ends.

    Raises:
        SamuelError: It does not come up.
    """
    # What a person has set for their own server, its database above all, is not for this one.
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(PREFECT_HOME=str(home), SAMUEL_PREFECT_PORT=str(_free_port()))
    from flows.service import server  # only now: it reads the port when it is imported

    process, log = server.start_server(), server.server_log()
    try:
        server.wait_until_healthy(process, log)
        yield Server(server.API_URL, home, psutil.Process(process.pid))
    except server.ServerError as error:
        raise SamuelError(f"{error}\n{log.read_text('utf-8', 'replace')[-1500:]}") from error
    finally:
        stop(process)


def _require_sensible(options: argparse.Namespace) -> None:
    if options.songs is not None and options.songs < 1:
        raise InputError("--songs: give at least 1")
    if options.seconds < 0:
        raise InputError("--seconds: nothing sleeps for less than 0 s")
    if options.list and not options.list.is_file():
        raise InputError(f"--list {options.list}: no such file")


def _song_list(options: argparse.Namespace, folder: Path) -> Path:
    if options.list:
        return options.list.resolve()
    made_up = folder / "made-up.csv"
    write_list(made_up, options.songs or FULL_LIST)
    return made_up


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
