"""`samuel verify`, `inspect`, `import-popdb`, `synthesise` and the exports."""

import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from samuel.artifacts import digest
from samuel.cli import main
from samuel.codecs import CodecInfo
from samuel.codecs.mel import MelCodec
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.status import Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import digests, encoded_song, failed_song, small_settings, sung
from tests.popdb.published_arrays import noise, write_published

COUNT = 5
Said = pytest.CaptureFixture[str]


def made(root: Path, codec: CodecInfo = MelCodec.info) -> Popdb:
    shares = {"a": [0.05, 0.95], "b": [0.55, 0.5], "c": [0.0, 1.0]}
    songs = [sung(encoded_song(root, name), *given) for name, given in shares.items()]
    for song in songs:
        song.record["codec"] = codec.model_dump()
    settings = small_settings(root, popdb={"chunk_frames": 64, "min_vocal_share": 0.05})
    return write_popdb([*songs, failed_song("d", Status.NO_MATCH, "match")], settings)


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    return made(tmp_path_factory.mktemp("popdb"))


def test_verify_says_sound_or_names_the_fault(tmp_path: Path, capsys: Said) -> None:
    popdb = made(tmp_path)
    assert main(["verify", str(popdb.root)]) == 0
    assert capsys.readouterr().out == f"{popdb.root}: sound\n"
    shard = popdb.index[0]["shard"]
    (popdb.root / shard).unlink()
    before = digests(popdb.root)
    assert main(["verify", str(popdb.root)]) == 1
    assert f"{shard}: missing" in capsys.readouterr().out
    assert digests(popdb.root) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "{root}/absent"], "no dataset here"),
        (["export-sat", "{root}/absent", "-o", "{root}/out"], "no dataset here"),
        (["import-popdb", "absent", "-o", "{root}/out"], "absent/latent_vocal.npy"),
        (["import-popdb", "a", "b", "c", "-o", "{root}/out"], "3 files given; give the folder of"),
        (["synthesise", "songs.source=csv", "--songs", "1"], "those of songs.source = 'synthetic'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    arguments: list[str], words: str, tmp_path: Path, capsys: Said
) -> None:
    assert main([text.format(root=tmp_path) for text in arguments]) == 1
    shown = capsys.readouterr()
    assert words in shown.out + shown.err
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert main(["synthesise", "--songs", "0"]) == 2


def test_the_published_files_become_a_dataset(tmp_path: Path, capsys: Said) -> None:
    files = write_published(tmp_path / "published", COUNT)
    given = {"folder": [str(tmp_path / "published")], "files": [str(path) for path in files]}
    for named, paths in given.items():
        output = tmp_path / named
        assert main(["import-popdb", *paths, "-o", str(output)]) == 0
        assert capsys.readouterr().out == f"{output}: {COUNT} pairs\n"
        popdb = open_popdb(output)
        found = sorted(popdb.read_checked(row)[0].numpy().tobytes() for row in popdb.index)
        assert found == sorted(vocal.tobytes() for vocal in noise(COUNT, 0))


def test_a_dataset_is_exported_for_others(popdb: Popdb, tmp_path: Path, capsys: Said) -> None:
    output = tmp_path / "sat"
    assert main(["export-sat", str(popdb.root), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    for row in popdb.index:
        accompaniment = np.load(output / row["split"] / f"{row['pair_id']}.npy")
        np.testing.assert_array_equal(accompaniment, popdb.read_checked(row)[1].numpy())
    for name in ("first", "again"):
        assert main(["export-manifest", str(popdb.root), "-o", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert digests(tmp_path / "first") == digests(tmp_path / "again")
    lines = (tmp_path / "first" / "pairs.jsonl").read_text().splitlines()
    assert all(row["pair_sha256"] in line for row, line in zip(popdb.index, lines, strict=True))


def test_inspect_says_what_the_dataset_holds(popdb: Popdb, capsys: Said) -> None:
    before = digests(popdb.root)
    assert main(["inspect", str(popdb.root), "--pairs", "0"]) == 0
    shown = capsys.readouterr().out
    counts = popdb.info["counts"]
    for line in (
        f"pairs      5 of {64 * 2048 / 44_100:.2f} s, 0.0 h",
        f"split      {counts['train']} train, {counts['validation']} validation",
        "songs      3 of 4 listed",
        "left out   1 of 6 chunks",
        "separator  repet/1",
        "vocal share of a chunk, 0.51 in the mean",
        "matched             3     1  no_match 1",
        "in the dataset      3     0",
    ):
        assert line in shown.splitlines()
    chunks = [int(count) for count in re.findall(r"^\d\.\d to \d\.\d +(\d+)", shown, re.MULTILINE)]
    assert chunks == np.histogram([0.05, 0.95, 0.55, 0.5, 0.0, 1.0], bins=10, range=(0, 1))[0].tolist()
    for stream in ("vocal", "accompaniment"):
        mean = np.mean(popdb.stats[stream]["mean"])
        assert re.search(rf"^{stream} +mean {mean:.2f} \(", shown, re.MULTILINE)
    assert digests(popdb.root) == before


def test_inspect_writes_a_sheet_and_clips_outside_the_dataset(
    popdb: Popdb, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = digests(popdb.root)
    assert main(["inspect", str(popdb.root), "--pairs", "2", "device=cpu"]) == 0
    sheet = Path(capsys.readouterr().out.splitlines()[-1])
    assert sheet.parent == Path("artifacts/inspect") / digest(popdb.info["content_sha256"])
    assert sheet.read_bytes().startswith(b"\x89PNG")
    clips = sorted(sheet.parent.glob("*.wav"))
    assert len(clips) == 6
    assert {soundfile.info(clip).frames for clip in clips} == {64 * 2048}
    assert digests(popdb.root) == before
    fsspec.filesystem("memory").put(str(popdb.root), "/inspected", recursive=True)
    arguments = ["memory://inspected", f"popdb.cache={tmp_path / 'cache'}", "--pairs", "0"]
    assert main(["inspect", *arguments]) == 0
    assert "dataset    memory://inspected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("codec", "words"),
    [("mel", "the codec at hand is mel/1"), ("flac", "flac/0, a codec this version lacks")],
)
def test_without_the_codec_all_but_the_sheet_is_shown(
    codec: str, words: str, tmp_path: Path, capsys: Said
) -> None:
    popdb = made(tmp_path, MelCodec.info.model_copy(update={"name": codec, "version": "0"}))
    output = tmp_path / "sheet"
    assert main(["inspect", str(popdb.root), "-o", str(output)]) == 1
    shown = capsys.readouterr()
    assert "in the dataset      3     0" in shown.out.splitlines()
    assert words in shown.err
    assert "--no-audio" in shown.err
    assert not output.exists()
    assert main(["inspect", str(popdb.root), "--no-audio", "-o", str(output)]) == 0
    assert [path.name for path in output.iterdir()] == ["contact-sheet.png"]


def test_a_dataset_does_not_choose_where_its_sheet_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popdb = made(tmp_path)
    popdb.info["content_sha256"] = "../../up"
    monkeypatch.setattr("samuel.popdb.dataset.open_popdb", lambda *_: popdb)
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(popdb.root), "--no-audio", "--pairs", "1"]) == 0
    (sheet,) = tmp_path.rglob("contact-sheet.png")
    assert sheet.parent.parent == tmp_path / "artifacts" / "inspect"
