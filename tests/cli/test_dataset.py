from pathlib import Path

import pytest

from samuel.cli import main
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.shards.songs import digests


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    return write_popdb([encoded_song(tmp_path, name) for name in "abc"], settings)


def test_verify_says_sound_or_names_the_fault(popdb: Popdb, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(popdb.root)]) == 0
    assert capsys.readouterr().out == f"{popdb.root}: sound\n"
    shard = popdb.index[0]["shard"]
    (popdb.root / shard).unlink()
    before = digests(popdb.root)
    assert main(["verify", str(popdb.root)]) == 1
    assert f"{shard}: missing" in capsys.readouterr().out
    assert digests(popdb.root) == before


def test_verify_of_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "absent")]) == 1
    shown = capsys.readouterr()
    assert "no dataset here" in shown.out + shown.err


def test_a_dataset_behind_a_url_needs_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "inspect"):
        assert main([command, "nosuch://bucket/popdb"]) == 1
        assert "nosuch" in "".join(capsys.readouterr())
