"""`make serve`: server, work pool, deployments and worker on this machine, until Ctrl-C."""

import signal
import subprocess
import sys

from flows.server import ROOT, UI_URL, ServerError, ensure_server, environment, prefect, spawn, stop

POOL = "samuel"
MESSAGE = f"""
Prefect UI  {UI_URL}

In another terminal, in this folder:

    .venv/bin/prefect deployment run build-popdb
    .venv/bin/prefect deployment run train-and-eval
    .venv/bin/prefect deployment run ablate

Ctrl-C stops the server and the worker.
"""


def main() -> int:
    """Serve until interrupted; 1 where the server or the deployments fail."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ensure_server()
        _register()
        return _work()
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _register() -> None:
    """Create the work pool and the deployments of prefect.yaml; again is harmless."""
    _run("work-pool", "create", POOL, "--type", "process", "--overwrite")
    _run("--no-prompt", "deploy", "--all")


def _run(*arguments: str) -> None:
    done = subprocess.run(
        prefect(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def _work() -> int:
    worker = spawn(prefect("worker", "start", "--pool", POOL))
    print(MESSAGE, flush=True)
    try:
        worker.wait()
    finally:
        stop(worker)
    print("error: the worker stopped", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
