"""Which faults of a task are worth another try, and after which pauses.

A song that fails is no fault of its task: the stages remember and retry songs themselves. What reaches a
task concerns all songs. A connection that broke may come back; a full disk, missing weights or a bug do not
mend themselves, and are shown at once.
"""

from typing import Any

import httpx
from prefect.tasks import exponential_backoff

PASSING = (ConnectionError, TimeoutError, httpx.TransportError)


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Whether what a task failed by, or what that came from, is a fault of a connection."""
    error = state.data
    while isinstance(error, BaseException):
        if isinstance(error, PASSING):
            return True
        error = error.__cause__
    return False


# Pauses of 10, 20, 40, 80 and 160 s, and up to half as much again: a server or a bucket may be away for five
# minutes.
RETRIED: dict[str, Any] = {
    "retries": 5,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
}
