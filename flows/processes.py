"""Processes that end with the one that started them, whatever ends it.

    python -m flows.processes COMMAND ARGUMENT …

runs a command and, when the command or the process that started this one ends, ends all that the command has
left behind, in whatever session: Prefect's worker and `train_together` give their children sessions of their
own. The kernel tells of a parent's death on Linux alone.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of <linux/prctl.h>
# Looked up now: between fork and exec nothing may be loaded.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
GRACE_S = 10.0  # from SIGTERM to SIGKILL


def spawn(
    command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command that ends when we do, out of reach of Ctrl-C; it prints into `log`, or where we do."""
    with contextlib.ExitStack() as opened:
        output = opened.enter_context(log.open("ab")) if log else None
        return _start([sys.executable, "-m", "flows.processes", *command], environment, output)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a spawned process and all that it has left behind."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.5 * GRACE_S)
    with contextlib.suppress(ProcessLookupError):  # all of it is gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def exit_words(code: int) -> str:
    """Return the name of the signal that an exit status stands for, or the code."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else f"exit code {code}"


def main() -> int:
    """Run the command of our arguments and end what it leaves; its exit status, as a shell's."""
    if LIBC:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes our child
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = -signal.SIGTERM
    try:
        with contextlib.suppress(KeyboardInterrupt):
            code = _start(sys.argv[1:]).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # SIGTERM first, so that flow runs can tell the server what became of them.
        psutil.wait_procs(_signalled_descendants(signal.SIGTERM), GRACE_S)
        while left := _signalled_descendants(signal.SIGKILL):
            psutil.wait_procs(left, timeout=1)
    return code if code >= 0 else 128 - code


def _start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, output: object = None
) -> "subprocess.Popen[bytes]":
    def end_with_parent() -> None:
        if LIBC:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        command, env=environment, stdout=output, stderr=output, start_new_session=True,  # type: ignore[arg-type]
        preexec_fn=end_with_parent,  # noqa: PLW1509  (one call, looked up before)
    )  # fmt: skip


def _signalled_descendants(number: signal.Signals) -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return found


if __name__ == "__main__":
    sys.exit(main())
