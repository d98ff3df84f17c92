import json
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
from samuel.report.report import write_evaluation_report, write_report
from tests.lines import append_line
from tests.popdb.latents import encoded_song, small_settings
from tests.report.evaluations import (
    CEILING,
    NOT_FOLLOWED,
    OURS,
    noise,
    rows_of,
    scores_entry,
    summary,
)

STEMS = ("vocal", "accompaniment", "reference", "mix")
TITLE = "A <b>song</b> | with [a](link), $1 & `code`"


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "abc"], small_settings(tmp_path))


def track(root: Path, name: str, seed: int) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        for place, stem in enumerate(STEMS):
            write_wav(folder / f"{stem}.wav", noise(1.0, 10 * seed + place), "PCM_24")
        return {"pair_id": name, "title": TITLE, "start_s": 47.5}

    return make_artifact(root / name, make)


def model_entry(root: Path, *, held_out: bool = True) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        for step in range(1, 21):
            append_line(folder / "metrics.jsonl", {"step": step, "v_mse": 1.0 - 0.04 * step, "seconds": 0.5})
        progress = {"best_loss": 0.5, "best_step": 20}
        return {"training": {"batch_size": 4}, "progress": progress, "held_out": held_out}

    return make_artifact(root / "model", make)


def written(popdb: Popdb, root: Path, *, held_out: bool = True, **parts: Any) -> Artifact:
    tracks = [track(root, name, seed) for seed, name in enumerate(("a-000", "b-001"))]
    rows = rows_of(OURS, "beat_f1", {"a-000": 0.5})
    scores = scores_entry(root / "scores", summary(**parts), rows)
    return write_report(popdb, model_entry(root, held_out=held_out), tracks, scores, root / "report")


def test_the_report_of_a_run_is_whole(popdb: Popdb, tmp_path: Path) -> None:
    report = written(popdb, tmp_path)
    text = report.path("report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## In short", "## Dataset", "## Training", "## Scores", "## Does it follow the vocal?",
        "## Distribution", "## Beside the paper's tables", "## Not measured", "## Problems", "## Tracks",
    ]  # fmt: skip
    assert "6 pairs from 3 of 3 songs" in text
    assert "20 steps of 4 pairs, 0.50 s a step (median)." in text
    assert "0.500 on held-out songs" in text
    assert "songs are synthetic" in text
    assert "<b>" not in text
    pictures = {
        "loss.png",
        "vocal-share.png",
        "following.png",
        "spectrogram-a-000.png",
        "spectrogram-b-001.png",
    }
    assert {name for name in report.sha256 if name.endswith(".png")} == pictures
    assert all(f"]({name})" in text for name in pictures)
    page = report.path("report.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == len(pictures)
    for name in ("scores.parquet", "summary.json"):
        assert report.path(name).read_bytes() == (tmp_path / "scores" / name).read_bytes()


def test_the_audio_of_a_run_lies_beside_it(popdb: Popdb, tmp_path: Path) -> None:
    report = written(popdb, tmp_path)
    files = {file.relative_to(report.folder).as_posix() for file in report.folder.rglob("*.flac")}
    owners = {
        "vocal": "vocal", "mix": "mix", "real-through-the-codec": "reference", "samuel": "accompaniment",
    }  # fmt: skip
    assert files == {f"audio/{owner}/{name}.flac" for owner in owners for name in ("a-000", "b-001")}
    text = report.path("report.md").read_text()
    assert all(f"]({file})" in text for file in files)
    for owner, stem in owners.items():
        heard, rate = soundfile.read(report.path(f"audio/{owner}/b-001.flac"))
        wanted, _ = soundfile.read(tmp_path / "b-001" / f"{stem}.wav")
        assert rate == 44_100
        np.testing.assert_allclose(heard, wanted, atol=1 / 2**15)


def test_a_report_is_written_once_and_what_is_lost_again(popdb: Popdb, tmp_path: Path) -> None:
    first = written(popdb, tmp_path)
    assert first.made
    assert not written(popdb, tmp_path).made
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


def test_a_model_without_held_out_songs_says_so(popdb: Popdb, tmp_path: Path) -> None:
    text = written(popdb, tmp_path, held_out=False).path("report.md").read_text()
    assert "none could be held out" in text


def test_scores_of_audiobox_have_their_picture(popdb: Popdb, tmp_path: Path) -> None:
    found = {"n": 2, "mean": 5.0, "low": 4.0, "high": 6.0}
    scores = {axis: {OURS: found} for axis in ("PQ", "PC", "CE", "CU")}
    report = written(popdb, tmp_path, scores=scores, following=None, not_measured={})
    assert {"audiobox.png", "following.png"} & set(report.sha256) == {"audiobox.png"}
    assert "](audiobox.png)" in report.path("report.md").read_text()


def test_without_another_song_no_picture_is_drawn_of_following(popdb: Popdb, tmp_path: Path) -> None:
    report = written(popdb, tmp_path, following={"beat_f1": {OURS: NOT_FOLLOWED}})
    assert "following.png" not in report.sha256
    assert "following.png" not in report.path("report.md").read_text()


def lineup(root: Path, names: tuple[str, ...] = ("song one", "../song: two", "Song?one")) -> Lineup:
    """Files of several formats; one is no audio, one is missing."""
    root.mkdir()
    tracks, made = [], {}
    for place, name in enumerate(names):
        write_wav(root / f"{place}.wav", noise(1.0, place))
        soundfile.write(root / f"{place}.ogg", noise(1.5, place + 9)[0], 22_050)
        tracks.append(Track(name, name, root / f"{place}.wav"))
        made[name] = root / f"{place}.ogg"
    (root / "0.ogg").write_text("no audio")
    return Lineup(
        tuple(tracks),
        (System("vocal", dict(list(made.items())[1:2])), System("Other <i>", made), System("None", {})),
    )


def test_any_systems_can_be_heard_beside_their_scores(tmp_path: Path) -> None:
    scores = scores_entry(
        tmp_path / "scores",
        summary(systems=["vocal", "Other <i>", "None"], following=None, scores={}, codec="mel/<1>"),
    )
    report = write_evaluation_report(lineup(tmp_path / "audio"), scores, tmp_path / "report")
    files = {file.relative_to(report.folder).as_posix() for file in report.folder.rglob("*.flac")}
    assert files == {
        "audio/vocal/song-one.flac", "audio/vocal/song-two.flac", "audio/vocal/Song-one-2.flac",
        "audio/other-i/song-two.flac", "audio/other-i/Song-one-2.flac", "audio/vocal-system/song-two.flac",
    }  # fmt: skip
    info = soundfile.info(report.path("audio/other-i/song-two.flac"))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 44_100, 2)
    assert info.frames == pytest.approx(1.5 * 44_100 * 2, abs=50)  # 1.5 s at 44.1 kHz, stated as 22.05
    text = report.path("report.md").read_text()
    assert "### ../song: two" in text
    assert "Codec: mel/\\<1\\>." in text
    assert r"- **Other \<i\>**: " in text
    assert "0.ogg: not readable as audio" in text
    assert not write_evaluation_report(lineup_again(tmp_path), scores, tmp_path / "report").made


def lineup_again(root: Path) -> Lineup:
    """The files as they are."""
    made = {n: root / "audio" / f"{i}.ogg" for i, n in enumerate(("song one", "../song: two", "Song?one"))}
    tracks = tuple(Track(name, name, path.with_suffix(".wav")) for name, path in made.items())
    second = dict(list(made.items())[1:2])
    return Lineup(tracks, (System("vocal", second), System("Other <i>", made), System("None", {})))


def test_another_recording_makes_another_report(tmp_path: Path) -> None:
    scores = scores_entry(tmp_path / "scores", summary())
    first = write_evaluation_report(lineup(tmp_path / "audio"), scores, tmp_path / "report")
    write_wav(tmp_path / "audio" / "0.wav", noise(2.0, 77))
    again = write_evaluation_report(lineup_again(tmp_path), scores, tmp_path / "report")
    assert again.folder != first.folder
    assert soundfile.info(again.path("audio/vocal/song-one.flac")).frames == 88_200


def test_of_very_many_tracks_the_first_can_be_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samuel.report.report.MOST_TRACKS", 1)
    scores = scores_entry(tmp_path / "scores", summary())
    report = write_evaluation_report(lineup(tmp_path / "audio"), scores, tmp_path / "report")
    text = report.path("report.md").read_text()
    assert text.count("\n### ../song") == 0
    assert text.count("\n### song one") == 1
    assert text.endswith("2 more tracks were scored; `scores.parquet` has them.\n")


def test_the_summary_is_the_scores_own(popdb: Popdb, tmp_path: Path) -> None:
    report = written(popdb, tmp_path, tracks=7)
    assert json.loads(report.path("summary.json").read_text())["tracks"] == 7
    assert "Mean over 7 tracks" in report.path("report.md").read_text()
    assert CEILING in report.path("report.html").read_text()
