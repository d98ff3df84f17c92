import os
import signal
from multiprocessing.util import get_temp_dir
from typing import Any

# Tests are many small operations: threads would only wait for one another, and sums would depend on them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DO_NOT_TRACK"] = "1"


def pytest_configure() -> None:
    """Hear Ctrl-C, also where a shell started this in the background and ignores it for all its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    get_temp_dir()  # it stays where it is made first, and a test's own folder does not last until the end


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Files that run Prefect in this process go last: what is forked after it ends in an error of its own."""
    prefect = {item.path for item in items if "server" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in prefect)  # by files: xdist hands out no less
