"""`samuel verify`, `inspect`, `import-popdb` and the exports."""

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


@pytest.fixture
def sound(tmp_path: Path) -> Popdb:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    return write_popdb([encoded_song(tmp_path, name) for name in "abc"], settings)


def test_verify_says_sound_or_names_the_fault(sound: Popdb, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sound.root)]) == 0
    assert capsys.readouterr().out == f"{sound.root}: sound\n"
    shard = sound.index[0]["shard"]
    (sound.root / shard).unlink()
    before = digests(sound.root)
    assert main(["verify", str(sound.root)]) == 1
    assert f"{shard}: missing" in capsys.readouterr().out
    assert digests(sound.root) == before


def test_verify_of_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "absent")]) == 1
    shown = capsys.readouterr()
    assert "no dataset here" in shown.out + shown.err


def test_a_dataset_behind_a_url_needs_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "inspect"):
        assert main([command, "nosuch://bucket/popdb"]) == 1
        assert "nosuch" in "".join(capsys.readouterr())


COUNT = 5


@pytest.fixture
def small(tmp_path: Path) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "ab"], small_settings(tmp_path))


@pytest.mark.parametrize("named", ["folder", "files"])
def test_the_published_files_become_a_dataset(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_published(tmp_path / "published", COUNT)
    given = [str(tmp_path / "published")] if named == "folder" else [str(path) for path in files]
    output = tmp_path / "popdb"
    assert main(["import-popdb", *given, "-o", str(output), "--codec", MelCodec.info.model_dump_json()]) == 0
    assert capsys.readouterr().out == f"{output}: {COUNT} pairs\n"
    popdb = open_popdb(output)
    assert popdb.codec == MelCodec.info
    found = sorted(popdb.read_checked(row)[0].numpy().tobytes() for row in popdb.index)
    assert found == sorted(vocal.tobytes() for vocal in noise(COUNT, 0))


def test_shards_for_a_url_are_kept_where_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    write_published(tmp_path / "published", 1)
    place = ["-o", "memory://imported-by-command", f"popdb.cache={tmp_path / 'cache'}"]
    assert main(["import-popdb", str(tmp_path / "published"), *place]) == 0
    assert capsys.readouterr().out == "memory://imported-by-command: 1 pair\n"
    popdb = open_popdb("memory://imported-by-command", tmp_path / "cache")
    kept = {f"{file['sha256']}.safetensors" for name, file in popdb.info["files"].items() if "shards" in name}
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
    small: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sat"
    assert main(["export-sat", str(small.root), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    for row in small.index:
        accompaniment = np.load(output / row["split"] / f"{row['pair_id']}.npy")
        np.testing.assert_array_equal(accompaniment, small.read_checked(row)[1].numpy())


def test_a_manifest_is_exported_without_the_latents(
    small: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "again"):
        assert main(["export-manifest", str(small.root), "-o", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert digests(tmp_path / "first") == digests(tmp_path / "again")
    lines = (tmp_path / "first" / "pairs.jsonl").read_text().splitlines()
    assert len(lines) == len(small.index)
    assert all(row["pair_sha256"] in line for row, line in zip(small.index, lines, strict=True))


def test_exporting_what_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("export-sat", "export-manifest"):
        assert main([command, str(tmp_path / "absent"), "-o", str(tmp_path / "out")]) == 1
        assert "no dataset here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def made(root: Path, codec: CodecInfo = MelCodec.info, **popdb: object) -> Popdb:
    shares = {"a": [0.05, 0.95], "b": [0.55, 0.5], "c": [0.0, 1.0]}
    songs = [sung(encoded_song(root, name), *given) for name, given in shares.items()]
    for song in songs:
        song.record["codec"] = codec.model_dump()
    settings = small_settings(root, popdb={"chunk_frames": 64, **popdb})
    return write_popdb([*songs, failed_song("d", Status.NO_MATCH, "match")], settings)


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return made(tmp_path, min_vocal_share=0.05)


def test_inspect_says_what_the_dataset_holds(popdb: Popdb, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(popdb.root)
    assert main(["inspect", str(popdb.root), "--pairs", "0"]) == 0
    shown = capsys.readouterr().out
    size = sum(path.stat().st_size for path in popdb.root.rglob("*") if path.is_file())
    size -= (popdb.root / "dataset.json").stat().st_size
    counts = popdb.info["counts"]
    for line in (
        f"pairs      5 of {64 * 2048 / 44_100:.2f} s, 0.0 h",
        f"split      {counts['train']} train, {counts['validation']} validation",
        "songs      3 of 4 listed",
        "left out   1 of 6 chunks",
        "shards     1",
        f"size       {size / 1e6:.1f} MB",
        "separator  repet/1",
        "vocal share of a chunk, 0.51 in the mean",
        "matched             3     1  no_match 1",
        "encoded             3     0",
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
    popdb: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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


def test_a_dataset_behind_a_url_is_shown_too(
    popdb: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec.filesystem("memory").put(str(popdb.root), "/inspected", recursive=True)
    arguments = ["memory://inspected", f"popdb.cache={tmp_path / 'cache'}", "--pairs", "1", "--no-audio"]
    assert main(["inspect", *arguments, "-o", str(tmp_path / "sheet")]) == 0
    assert "dataset    memory://inspected" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "sheet").iterdir()] == ["contact-sheet.png"]


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("stable-audio-open", "error: codec.path {absent}: no such folder"),
        ("mel", "the codec at hand is mel/1"),
        ("flac", "flac/0, a codec this version lacks"),
    ],
)
def test_without_the_codec_all_but_the_sheet_is_shown(
    codec: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    popdb = made(tmp_path, MelCodec.info.model_copy(update={"name": codec, "version": "0"}))
    output = tmp_path / "sheet"
    absent = [f"codec.path={tmp_path / 'absent'}"]
    words = words.format(absent=tmp_path / "absent")
    assert main(["inspect", str(popdb.root), *absent, "-o", str(output)]) == 1
    shown = capsys.readouterr()
    assert "in the dataset      3     0" in shown.out.splitlines()
    assert words in shown.err
    assert "--no-audio" in shown.err
    assert "\x1b" not in shown.out + shown.err
    assert not output.exists()
    assert main(["inspect", str(popdb.root), "--no-audio", "-o", str(output)]) == 0
    assert (output / "contact-sheet.png").is_file()


@pytest.mark.parametrize("below", ["", "sheet"])
def test_a_file_is_no_folder_for_the_sheet(
    below: str, popdb: Popdb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    output = str(tmp_path / "notes.txt" / below)
    assert main(["inspect", str(popdb.root), "--no-audio", "-o", output]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'notes.txt'} is a file; give a folder\n"


@pytest.mark.parametrize("said", ["../../up", "/{root}/up", "\x00" * 64])
def test_a_dataset_does_not_choose_where_its_sheet_goes(
    said: str, popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popdb.info["content_sha256"] = said.format(root=tmp_path)
    monkeypatch.setattr("samuel.popdb.dataset.open_popdb", lambda *_: popdb)
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(popdb.root), "--no-audio", "--pairs", "1"]) == 0
    (sheet,) = tmp_path.rglob("contact-sheet.png")
    assert sheet.parent.parent == tmp_path / "artifacts" / "inspect"
