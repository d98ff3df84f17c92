"""Processes that end with the one that started them, whatever ends it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of <linux/prctl.h>
# Looked up now: between fork and exec nothing may be loaded.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
GRACE_S = 10  # in which what has children of its own must have ended them


def spawn(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path | None = None
) -> "subprocess.Popen[bytes]":
    """A process in a session of its own, so that Ctrl-C reaches it only through us; it ends when we do.

    Args:
        command: What to run.
        folder: Where.
        environment: With these variables.
        log: Takes what it prints, after what is there; none: our own terminal.
    """
    with contextlib.ExitStack() as opened:
        output = opened.enter_context(log.open("ab")) if log else None
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  (one call, looked up before)
        )  # fmt: skip


def stop(process: "subprocess.Popen[bytes]", grace_s: float = 1.5 * GRACE_S) -> None:
    """End a spawned process, and its children in its own session."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def fence(command: Sequence[str]) -> int:
    """Run a command, and end all that it leaves behind in whatever session; its exit status, as a shell's.

    Prefect's worker puts each flow run in a session of its own. Killed, it would leave runs that nobody can
    cancel any more.
    """
    if LIBC:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes our child
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = -signal.SIGTERM
    try:
        with contextlib.suppress(KeyboardInterrupt):
            code = spawn(command, Path.cwd(), os.environ).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_descendants()
    return code if code >= 0 else 128 - code


def exit_words(code: int) -> str:
    """What an exit status says, in words."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else f"exit code {code}"


def _end_descendants() -> None:
    """SIGTERM first, so that flow runs can tell the server what became of them."""
    found = _told(psutil.Process().children(recursive=True), signal.SIGTERM)
    psutil.wait_procs(found, timeout=GRACE_S)
    while left := _told(psutil.Process().children(recursive=True), signal.SIGKILL):
        psutil.wait_procs(left, timeout=1)


def _told(processes: Iterable[psutil.Process], number: signal.Signals) -> list[psutil.Process]:
    found = list(processes)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return found


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it is gone
        os.killpg(group, number)


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, even by SIGKILL."""
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(fence(sys.argv[1:]))
