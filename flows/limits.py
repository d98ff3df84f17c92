"""How many tasks may do the same at a time, over all runs, processes and machines of a Prefect server.

These are Prefect's global concurrency limits: the UI shows them and who holds them, `prefect gcl update`
changes them, and a slot whose holder was killed comes back once its lease is over.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from samuel.config import Settings
from samuel.device import resolve_device

# Every song list of every run asks the same site; its pace is kept by whoever shares a data folder, and this
# is what holds between those that do not.
DOWNLOADS = "samuel-download"
GPU = "samuel-gpu"
LEASE_S = 120  # a killed holder blocks the others for so long, and a server may be away for as long


@contextmanager
def gpu_slot(settings: Settings, gpus: int = 1) -> Iterator[None]:
    """Have the GPU of this process to oneself, or its first `gpus`; a CPU is shared."""
    if resolve_device(settings.device).type != "cuda":
        yield
        return
    here = range(min(gpus, torch.cuda.device_count())) if gpus > 1 else [torch.cuda.current_device()]
    with slot(*(f"{GPU}-{torch.cuda.get_device_properties(number).uuid}" for number in here)):
        yield


@contextmanager
def slot(*names: str) -> Iterator[None]:
    """Hold a slot of each limit, all at once; one that is not there is created, for one holder."""
    for name in names:
        create_limit(name)
    # A server that was away must not end a task of hours: what it holds is then only warned about.
    with concurrency(list(names), lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False):
        yield


def create_limit(name: str, slots: int = 1) -> None:
    """Create a limit, unless it is there: whoever changed it knew why."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
            except ObjectAlreadyExists:  # by another task, since then
                return
