import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from samuel.artifacts import digest
from samuel.cli import main
from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.device import resolve_device
from samuel.popdb.dataset import Popdb
from samuel.popdb.status import Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, failed_song, small_settings
from tests.popdb.shards.songs import digests, sung


def made(root: Path, codec: str, **popdb: object) -> Popdb:
    shares = {"a": [0.05, 0.95], "b": [0.55, 0.5], "c": [0.0, 1.0]}
    songs = [sung(encoded_song(root, name), *given) for name, given in shares.items()]
    for song in songs:
        song.record["codec"] = codec
    settings = small_settings(root, popdb={"chunk_frames": 64, **popdb})
    return write_popdb([*songs, failed_song("d", Status.NO_MATCH, "match")], settings)


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return made(tmp_path, load_codec(CodecConfig(), resolve_device("cpu")).identity, min_vocal_share=0.05)


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
        "shards     1, and in them 0 rows of no pair",
        f"size       {size / 1e6:.1f} MB",
        "separator  repet/1",
        "mean 0.51",
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
        ("stable-audio-open/2 mean weights=1", "error: codec.path {absent}: no such folder"),
        ("mel/0", "the codec at hand is 'mel/1"),
        ("flac\x1b/1", "'flac\\x1b/1', a codec this version lacks"),
    ],
)
def test_without_the_codec_all_but_the_sheet_is_shown(
    codec: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    popdb = made(tmp_path, codec)
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


@pytest.mark.parametrize("pairs", ["-1", "51"])
def test_a_wrong_number_of_pairs_is_refused(
    pairs: str, popdb: Popdb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(popdb.root), "--pairs", pairs]) == 2
    assert f"{pairs} is not in the range 0<=x<=50" in capsys.readouterr().err


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
