"""A command run with a disk of its own that is soon full."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_on_small_disk(disk: Path, size: str, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command that sees a tmpfs of so many bytes ("1m") at `disk`; skip where no mount is allowed."""
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={size} samuel "$1" && shift && exec "$@"'
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(disk)]
    try:
        if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no user namespace with a mount of its own on this system")
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    return subprocess.run([*namespace, *command], cwd=ROOT, capture_output=True, text=True, check=False)
