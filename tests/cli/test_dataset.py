from pathlib import Path

import pytest

from samuel.cli import main
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.shards.songs import digests


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    return write_popdb([encoded_song(tmp_path, name) for name in "abc"], settings)


def flip_a_bit(popdb: Popdb, pair_id: str) -> None:
    """Of a pair that is the last of its shard."""
    row = next(row for row in popdb.index if row["pair_id"] == pair_id)
    shard = popdb.root / row["shard"]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


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


def test_repair_says_what_was_lost_and_what_to_run_again(
    popdb: Popdb, capsys: pytest.CaptureFixture[str]
) -> None:
    last = max((row for row in popdb.index if row["split"] == "train"), key=lambda row: row["row"])
    flip_a_bit(popdb, last["pair_id"])
    assert main(["verify", str(popdb.root), "--repair"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert last["shard"] in lines[0]
    assert f"dropped 1 pair: {last['pair_id']}" in lines
    assert f"  {last['song_id']}  {last['title']}" in lines
    assert lines[-1] == f"{popdb.root}: sound"
    kept = {row["pair_id"] for row in open_popdb(popdb.root).index}
    assert kept == {row["pair_id"] for row in popdb.index} - {last["pair_id"]}
    assert main(["verify", str(popdb.root), "--repair"]) == 0
    assert capsys.readouterr().out == f"{popdb.root}: sound\n"


def test_a_hostile_title_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.popdb.latents.Song", lambda name, _: Song(name, "\x1b[2J\r\nrun rm -rf"))
    from samuel.popdb.songs import Song

    popdb = write_popdb([encoded_song(tmp_path, name) for name in "ab"], small_settings(tmp_path))
    flip_a_bit(popdb, max(popdb.index, key=lambda row: row["row"])["pair_id"])
    assert main(["verify", str(popdb.root), "--repair"]) == 0
    shown = capsys.readouterr().out
    assert "  b  ?[2J run rm -rf" in shown.splitlines()
    assert "\x1b" not in shown


def test_what_cannot_be_repaired_is_left_alone(popdb: Popdb, capsys: pytest.CaptureFixture[str]) -> None:
    (popdb.root / "index.parquet").write_bytes(b"no table")
    before = digests(popdb.root)
    assert main(["verify", str(popdb.root), "--repair"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was repaired, and nothing was changed"
    assert digests(popdb.root / "shards") == {
        name.removeprefix("shards/"): value for name, value in before.items() if name.startswith("shards/")
    }


def test_compact_rewrites_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 4})
    for names in ("abc", "acd"):  # b is buried beside a, d goes into a shard of its own
        grown = write_popdb([encoded_song(tmp_path, name) for name in names], settings)
    pairs = {row["pair_id"]: row["pair_sha256"] for row in grown.index}
    assert main(["compact", str(grown.root)]) == 0
    told = "6 pairs in 2 shards; before: 3 shards, 2 rows of no pair"
    assert capsys.readouterr().out == f"{grown.root}: {told}\n"
    assert {row["pair_id"]: row["pair_sha256"] for row in open_popdb(grown.root).index} == pairs
    before = digests(grown.root)
    assert main(["compact", str(grown.root)]) == 0
    assert capsys.readouterr().out == f"{grown.root}: already compact, nothing was rewritten\n"
    assert digests(grown.root) == before


def test_a_dataset_behind_a_url_needs_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "compact", "inspect"):
        assert main([command, "nosuch://bucket/popdb"]) == 1
        assert "nosuch" in "".join(capsys.readouterr())
