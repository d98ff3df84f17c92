import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from samuel.artifacts import Artifact, make_artifact
from samuel.audio import write_wav
from samuel.evaluate.systems import Lineup, System, Track
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from samuel.report.report import (
    file_names,
    vocal_share_report,
    write_evaluation_report,
    write_flac,
    write_report,
)
from tests.lines import append_line
from tests.popdb.latents import encoded_song, small_settings
from tests.report.evaluations import NOT_FOLLOWED, OURS, noise, rows_of, scores_entry, summary
from tests.report.test_plots import Rows, training, without

STEMS = ("vocal", "accompaniment", "reference", "mix")
TITLE = "A <b>song</b> | with [a](link), $1 & `code`"


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("popdb")
    return write_popdb([encoded_song(root, name) for name in "abc"], small_settings(root))


def track(root: Path, name: str, seed: int) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        for place, stem in enumerate(STEMS):
            write_wav(folder / f"{stem}.wav", noise(1.0, 10 * seed + place), "PCM_24")
        return {"pair_id": name, "title": TITLE, "start_s": 47.5}

    return make_artifact(root / name, make)


def model_entry(root: Path, rows: Rows, *, held_out: bool = True) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        for row in rows:
            append_line(folder / "metrics.jsonl", row)
        progress = {"step": 30, "best_loss": 0.6, "best_step": 20}
        return {"training": {"batch_size": 16}, "progress": progress, "held_out": held_out}

    return make_artifact(root / "model", make)


def written(
    popdb: Popdb, root: Path, rows: Rows | None = None, *, held_out: bool = True, **parts: Any
) -> Artifact:
    tracks = [track(root, name, seed) for seed, name in enumerate(("a-000", "b-001"))]
    scores = scores_entry(root / "scores", summary(**parts), rows_of(OURS, "beat_f1", {"a-000": 0.5}))
    model = model_entry(root, rows or training(), held_out=held_out)
    return write_report(popdb, model, tracks, scores, root / "report")


def test_the_report_of_a_run_is_whole_and_its_audio_lies_beside_it(popdb: Popdb, tmp_path: Path) -> None:
    report = written(popdb, tmp_path, training(gpu=True))
    text = report.path("report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## In short", "## Dataset", "## Training", "## Scores", "## Does it follow the vocal?",
        "## Distribution", "## Beside the paper's tables", "## Not measured", "## Problems", "## Tracks",
    ]  # fmt: skip
    joined = " ".join(text.split())
    for said in (
        "6 pairs from 3 of 3 songs",
        "songs are synthetic",
        "30 steps of 16 pairs, 62.0 ms a step, 4,015.5 pairs a second (median); at most 9,006 MB of GPU",
        "0.890 over the first ten steps, 0.490 over the last ten; 0.600 on held-out songs",
        "Conditioning gain: 0.0200 ± 0.0020 (standard error over the pairs). By this",
        "of another song: 0.6000 with its own, 0.6200 shuffled.",
        r"### A \<b\>song\</b\> \| with \[a\]\(link\), \$1 \& \`code\`, from 47.5 s",
    ):
        assert said in joined
    tracks = {"spectrogram-0.png", "spectrogram-1.png"}
    pictures = {"loss.png", "vocal-share.png", "following.png", *tracks}
    assert {name for name in report.sha256 if name.endswith(".png")} == pictures
    assert all(f"]({name})" in text for name in pictures)
    page = report.path("report.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == len(pictures)
    for name in ("scores.parquet", "summary.json"):
        assert report.path(name).read_bytes() == (tmp_path / "scores" / name).read_bytes()

    files = {file.relative_to(report.folder).as_posix() for file in report.folder.rglob("*.flac")}
    owners = {
        "vocal": "vocal", "mix": "mix", "real-through-the-codec": "reference", "samuel": "accompaniment",
    }  # fmt: skip
    assert files == {f"audio/{owner}/{name}.flac" for owner in owners for name in ("a-000", "b-001")}
    assert all(f"]({file})" in text for file in files)
    assert page.count("<audio ") == len(files)
    for owner, stem in owners.items():
        played, rate = soundfile.read(report.path(f"audio/{owner}/b-001.flac"))
        wanted, _ = soundfile.read(tmp_path / "b-001" / f"{stem}.wav")
        assert rate == 44_100
        np.testing.assert_allclose(played, wanted, atol=1 / 2**15)


def test_a_report_is_written_once_and_what_is_lost_again(popdb: Popdb, tmp_path: Path) -> None:
    first = written(popdb, tmp_path)
    assert (first.made, written(popdb, tmp_path).made) == (True, False)
    flac = first.path("audio/samuel/a-000.flac")
    before = flac.read_bytes()
    flac.unlink()
    assert written(popdb, tmp_path).folder == first.folder
    assert flac.read_bytes() == before
    first.path("loss.png").unlink()
    again = written(popdb, tmp_path)
    assert again.made
    assert len(list(again.folder.rglob("*.flac"))) == 8
    assert {path.name for path in first.folder.parent.iterdir()} == {first.folder.name, ".locks"}


def test_only_what_was_measured_is_shown(popdb: Popdb, tmp_path: Path) -> None:
    least = without(training(), "pairs_per_s", "memory_mb", "validation_shuffled", "conditioning_gain_error")
    report = written(popdb, tmp_path, least, held_out=False, following={"beat_f1": {OURS: NOT_FOLLOWED}})
    assert "following.png" not in report.sha256
    text = " ".join(report.path("report.md").read_text().split())
    assert "following.png" not in text
    assert "none could be held out" in text
    assert "62.0 ms a step (median). Mean squared error" in text
    assert "Conditioning gain: not measured" in text


def lineup(root: Path) -> Lineup:
    """Files of several formats; one is no audio, one is missing."""
    names = ("song one", "../song: two", "Song?one")
    if not root.exists():
        root.mkdir()
        for place in range(3):
            write_wav(root / f"{place}.wav", noise(1.0, place))
            soundfile.write(root / f"{place}.ogg", noise(1.5, place + 9)[0], 22_050)
        (root / "0.ogg").write_text("no audio")
    made = {name: root / f"{place}.ogg" for place, name in enumerate(names)}
    tracks = tuple(Track(name, name, path.with_suffix(".wav")) for name, path in made.items())
    return Lineup(tracks, (System("Other <i>", made), System("None", {})))


def test_any_systems_can_be_played_beside_their_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = summary(systems=["Other <i>", "None"], following={}, scores={}, codec="mel/<1>")
    scores = scores_entry(tmp_path / "scores", found)
    report = write_evaluation_report(lineup(tmp_path / "audio"), scores, tmp_path / "report")
    files = {file.relative_to(report.folder).as_posix() for file in report.folder.rglob("*.flac")}
    assert files == {
        "audio/vocal/song-one.flac", "audio/vocal/song-two.flac", "audio/vocal/Song-one-2.flac",
        "audio/other-i/song-two.flac", "audio/other-i/Song-one-2.flac",
    }  # fmt: skip
    info = soundfile.info(report.path("audio/other-i/song-two.flac"))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 44_100, 2)
    assert info.frames == pytest.approx(1.5 * 44_100 * 2, abs=50)  # 1.5 s at 44.1 kHz, stated as 22.05
    text = report.path("report.md").read_text()
    assert "### ../song: two" in text
    assert "Codec: mel/\\<1\\>." in text
    assert r"- **Other \<i\>**: " in text
    assert "0.ogg: not readable as audio" in text
    assert not write_evaluation_report(lineup(tmp_path / "audio"), scores, tmp_path / "report").made
    monkeypatch.setattr("samuel.report.report.MOST_TRACKS", 1)
    again = write_evaluation_report(lineup(tmp_path / "audio"), scores, tmp_path / "few")
    text = again.path("report.md").read_text()
    assert (text.count("\n### ../song"), text.count("\n### song one")) == (0, 1)
    assert text.endswith("2 more tracks were scored; `scores.parquet` has them.\n")
    assert json.loads(again.path("summary.json").read_text())["tracks"] == 20


def test_names_lead_nowhere_and_are_different() -> None:
    for names, files in (
        (["../../etc/passwd", "-rf", ".hidden"], ["etc-passwd", "rf", "hidden"]),
        (["a b", "a/b", "A*B"], ["a-b", "a-b-2", "A-B-3"]),  # alike where case does not count
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["日本", "", "\x00", "x" * 300], ["track", "track-2", "track-3", "x" * 100]),
    ):
        assert file_names(names) == files


def test_samples_are_kept_to_16_bits_and_clipped(tmp_path: Path) -> None:
    audio = 3 * noise(7.0)  # longer than a block
    audio[:, 100] = np.nan
    audio[0, 50], audio[1, 50] = 1.5, -1.5
    write_wav(tmp_path / "in.wav", audio)
    write_flac(tmp_path / "in.wav", tmp_path / "deep" / "out.flac")
    played, rate = soundfile.read(tmp_path / "deep" / "out.flac")
    assert rate == 44_100
    np.testing.assert_allclose(played.T, np.nan_to_num(audio).clip(-1, 1), atol=1 / 2**15)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.flac"]


def test_the_vocal_share_is_that_of_all_chunks_whatever_was_left_out(tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, "a", 3), encoded_song(tmp_path, "b")]
    for song, shares in zip(songs, ((0.2, 0.55, 0.9), (0.1, 0.5)), strict=True):
        for chunk, share in zip(song.record["chunks"], shares, strict=True):
            chunk["vocal_share"] = share
    popdb = write_popdb(songs, small_settings(tmp_path, popdb={"min_vocal_share": 0.15}))
    text = vocal_share_report(popdb, tmp_path)
    assert "5 chunks of 2.97 s: 0.450 on average; 3 of them (60.0%)" in text
    assert "`popdb.min_vocal_share` = 0.15: 1 of the chunks left out." in text
    everything = write_popdb(songs, small_settings(tmp_path))
    assert "`popdb.min_vocal_share` = 0: all kept" in vocal_share_report(everything, tmp_path)


def test_a_published_dataset_is_said_to_be_one(tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, name) for name in "ab"]
    for chunk in (chunk for song in songs for chunk in song.record["chunks"]):
        chunk["vocal_share"] = None
    popdb = write_popdb(songs, small_settings(tmp_path))
    published = replace(popdb, info=popdb.info | {"source": "published", "separator": "demucs/published"})
    text = " ".join(written(published, tmp_path).path("report.md").read_text().split())
    for words in ("Vocal share: not measured.", "published without their songs", "all from the end"):
        assert words in text
    assert "songs are synthetic" not in text
