"""Processes of one machine that train together, where nobody else can reach them.

The rendezvous of torchrun listens on every interface of the machine, and unpickles what it is sent. Ours is a
file that only this user can read, and gloo and NCCL are held to the loopback interface.
"""

import atexit
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing import _prctl_pr_set_pdeathsig as end_with_parent  # type: ignore[attr-defined]

from samuel.config import Settings
from samuel.device import resolve_device
from samuel.errors import MissingPartError, OperatorError

RENDEZVOUS = "SAMUEL_RENDEZVOUS"  # environment variable: the file where they meet
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
LOOK_S = 0.1


def train_together(settings: Settings) -> int:
    """Train on `training.processes` processes of this machine, each `samuel train`; give their exit code.

    Where one fails, the others end; where this process is killed, so do they, on Linux.

    Raises:
        MissingPartError: Fewer GPUs than processes.
        OperatorError: A signal ended one of them.
        KeyboardInterrupt: SIGINT or SIGTERM came; there is a checkpoint, unless it came twice.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    processes, gpus = settings.training.processes, torch.cuda.device_count()
    if resolve_device(settings.device).type == "cuda" and processes > gpus:
        raise MissingPartError(
            f"training.processes = {processes}: each needs a GPU of its own, and this machine has {gpus}; set"
            f" training.processes = {gpus}"
        )
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // processes))
    with tempfile.TemporaryDirectory(prefix="samuel-") as folder:  # which nobody else can read
        shared[RENDEZVOUS], file = f"{folder}/rendezvous", Path(folder, "settings.json")
        file.write_text(settings.model_dump_json(), "utf-8")
        own = {rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)}
        arguments = dict.fromkeys(own, ("-m", "samuel.cli", "train", "--settings", str(file)))
        ranks = start_processes("train", sys.executable, arguments, own, DefaultLogsSpecs(folder))
        try:
            result = ranks.wait(period=LOOK_S)
        except SignalException as error:
            with suppress(SignalException):  # the second
                ranks.close(signal.SIGTERM)
            raise KeyboardInterrupt from error
        finally:
            ranks.close(signal.SIGKILL)
    codes = [failure.exitcode for failure in result.failures.values()] if result else []
    killed = [code for code in codes if code < 0 and code != -signal.SIGTERM]  # which the others get
    if killed:
        ended = f"{signal.Signals(-killed[0]).name} ended a training process"
        raise OperatorError(f"{ended}; the same command goes on from its checkpoint")
    return min((code for code in codes if code > 0), default=int(bool(codes)))


def meet(device: torch.device) -> None:
    """Meet the other processes of `train_together`."""
    end_with_parent(signal.SIGTERM)
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = LOOPBACK
    rank, world_size, own = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), None
    if device.type == "cuda":
        torch.cuda.set_device(own := torch.device("cuda", rank))
    store = distributed.FileStore(os.environ[RENDEZVOUS], world_size)  # type: ignore[reportPrivateImportUsage]
    distributed.init_process_group(
        "nccl" if own else "gloo", store=store, rank=rank, world_size=world_size, device_id=own
    )
    if own:
        atexit.register(distributed.destroy_process_group)
