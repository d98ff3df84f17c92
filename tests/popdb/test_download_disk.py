"""A disk that gets full: a real one, small and mounted in a namespace of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.audio import decode_to_wav
from samuel.errors import OperatorError
from samuel.popdb.parts import Parts
from samuel.popdb.status import Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import Answer, LocalSite, encoded, sine

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=80m samuel "$1" && shift && exec "$@"'
NOISE = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2)).astype(np.float32))  # 170 kB
# Nothing is left; not enough for the video; enough for it, but not for the WAV beside it; plenty.
LEFT_BYTES = (0, 65_536, 200_000, 4_000_000)


def in_namespace(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*NAMESPACE, *command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def steps(site: LocalSite, workplace: Workplace) -> list[dict[str, Any]]:
    """What `full_disk` tells of each number of bytes left."""
    disk = workplace.settings.data
    disk.mkdir()
    try:
        if in_namespace("mount", "-t", "tmpfs", "samuel", str(disk)).returncode:
            pytest.skip("no user namespace with a mount of its own on this system")
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    for number in range(len(LEFT_BYTES)):
        for title in (f"Old {number}", f"New {number}"):
            site.add_song(title, title.replace(" ", ""), Answer(NOISE), 1.0)
    settings = workplace.with_(workers=1).model_dump_json()
    program = [sys.executable, "-m", "tests.popdb.download_full_disk", settings, *map(str, LEFT_BYTES)]
    done = in_namespace("sh", "-c", MOUNT, "sh", str(disk), *program)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_full_disk_stops_the_run_and_loses_nothing(steps: list[dict[str, Any]]) -> None:
    *full, plenty = steps
    assert plenty["full"] == ["ok", "ok"]
    for step in full:
        kind, message = step["full"]
        assert (kind, "disk is full: make room" in message) == ("OperatorError", True)
        assert step["audio"] == step["kept"]
    for step in steps:
        assert step["before"] == ["ok"]
        assert step["after"] == ["ok", "ok"]
    [size] = set(steps[-1]["audio"].values())
    assert 0 < size - 44_100 * 2 * 4 < 200  # one second and its header, whichever step it is of


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_in_mid_download_stops_the_run(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(NOISE, sent=100_000), duration=1.0)
    assert workplace.outcomes("Any")[0].status == Status.NETWORK
    [part] = workplace.root.glob("data/raw/.*.part/*.part")
    part.unlink()
    part.symlink_to("/dev/full")
    site.answers["/media/a"] = Answer(NOISE)
    with pytest.raises(OperatorError, match="disk is full"):
        workplace.outcomes("Any")
    assert workplace.entries() == []
    part.unlink()
    Parts(workplace.settings).rate_limiter.start_run()
    assert workplace.outcomes("Any")[0].ok


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_while_decoding_is_no_broken_song(tmp_path: Path) -> None:
    source, target = tmp_path / "song.flac", tmp_path / "song.wav"
    source.write_bytes(encoded(sine(3.0)))
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        decode_to_wav(source, target)
