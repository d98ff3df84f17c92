from pathlib import Path

import numpy as np
import pytest

from samuel.cli import main
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.exchange.arrays import noise, write_published
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.shards.songs import digests

COUNT = 5


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "ab"], small_settings(tmp_path))


@pytest.mark.parametrize("named", ["folder", "files"])
def test_the_published_files_become_a_dataset(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_published(tmp_path / "published", COUNT)
    given = [str(tmp_path / "published")] if named == "folder" else [str(path) for path in files]
    output = tmp_path / "popdb"
    assert main(["import-popdb", *given, "-o", str(output), "--codec", "mel/1"]) == 0
    assert capsys.readouterr().out == f"{output}: {COUNT} pairs\n"
    popdb = open_popdb(output)
    assert popdb.info["codec"] == "mel/1"
    found = sorted(popdb.read_checked(row)[0].numpy().tobytes() for row in popdb.index)
    assert found == sorted(vocal.tobytes() for vocal in noise(COUNT, 0))


def test_a_published_dataset_is_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_published(tmp_path / "published", COUNT)
    assert main(["import-popdb", str(tmp_path / "published"), "-o", str(tmp_path / "popdb")]) == 0
    sheet = ["--no-audio", "--pairs", "2", "-o", str(tmp_path / "sheet")]
    assert main(["inspect", str(tmp_path / "popdb"), *sheet]) == 0
    assert "not measured" in capsys.readouterr().out
    assert "The vocal share of the chunks was not measured." in (tmp_path / "popdb/README.md").read_text()


def test_shards_for_a_url_are_kept_where_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    write_published(tmp_path / "published", 1)
    place = ["-o", "memory://imported-by-command", f"popdb.cache={tmp_path / 'cache'}"]
    assert main(["import-popdb", str(tmp_path / "published"), *place]) == 0
    assert capsys.readouterr().out == "memory://imported-by-command: 1 pair\n"
    popdb = open_popdb("memory://imported-by-command", tmp_path / "cache")
    kept = {f"{row['shard_sha256']}.safetensors" for row in popdb.index}
    assert kept <= {path.name for path in (tmp_path / "cache").iterdir()}
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [(["absent"], "absent/latent_vocal.npy"), (["a", "b", "c"], "3 files given; give the folder of")],
)
def test_files_that_are_not_the_published_ones_are_refused(
    files: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-popdb", *files, "-o", str(tmp_path / "popdb")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "popdb" / "dataset.json").exists()


def test_a_dataset_is_exported_for_stable_audio_tools(
    popdb: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sat"
    assert main(["export-sat", str(popdb.root), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    for row in popdb.index:
        accompaniment = np.load(output / row["split"] / f"{row['pair_id']}.npy")
        np.testing.assert_array_equal(accompaniment, popdb.read_checked(row)[1].numpy())


def test_a_manifest_is_exported_without_the_latents(
    popdb: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "again"):
        assert main(["export-manifest", str(popdb.root), "-o", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert digests(tmp_path / "first") == digests(tmp_path / "again")
    lines = (tmp_path / "first" / "pairs.jsonl").read_text().splitlines()
    assert len(lines) == len(popdb.index)
    assert all(row["pair_sha256"] in line for row, line in zip(popdb.index, lines, strict=True))


def test_exporting_what_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("export-sat", "export-manifest"):
        assert main([command, str(tmp_path / "absent"), "-o", str(tmp_path / "out")]) == 1
        assert "no dataset here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
