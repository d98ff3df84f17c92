import json
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from samuel.artifacts import Artifact, make_artifact
from samuel.audio import write_wav
from samuel.evaluate.systems import Lineup, System, Track
from samuel.popdb.dataset import Popdb
from samuel.popdb.exchange import import_published
from samuel.popdb.writer import write_popdb
from samuel.report.plots import (
    MAX_COLUMNS,
    MEL_BANDS,
    OTHER,
    OWN,
    drawable,
    mel_spectrogram,
    plot_following,
    plot_loss,
    plot_spectrograms,
    plot_vocal_shares,
)
from samuel.report.report import (
    file_names,
    vocal_share_report,
    write_evaluation_report,
    write_flac,
    write_report,
)
from tests.decoding import write_ten_hours
from tests.lines import append_line
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.published_arrays import GAP, write_published
from tests.report.evaluations import NOT_FOLLOWED, OURS, REAL, followed, noise, rows_of, scores_entry, summary
from tests.report.evaluations import OWN as MEANS

HOSTILE = "a $\\frac$ \x1b[31m\n愛 " + "W" * 100
Rows = list[dict[str, Any]]


def training(steps: int = 30, *, gpu: bool = False) -> Rows:
    """Rows as a training writes them; it validates at every tenth step and is best at step 20."""
    rows = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "loss": 0.1, "v_mse": 1.0 - 0.02 * step}
        row |= {"learning_rate": 1e-3 / step, "gradient_norm": 0.1 * step}
        row |= {"seconds": 0.004 * step, "pairs_per_s": 4000.0 + step}
        if gpu:
            row["memory_mb"] = 9000.0 + step % 7
        if step % 10 == 0:
            loss = 0.6 if step == 20 else 0.65
            row |= {"validation_loss": loss, "validation_shuffled": loss + 0.001 * step}
            row["conditioning_gain_error"] = 0.0001 * step
        rows.append(row)
    return rows


def without(rows: Rows, *names: str) -> Rows:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def xy(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {str(line.get_label()): xy(line) for line in axes.lines}


def test_the_loss_plot_shows_what_was_measured(tmp_path: Path, figures: list[Figure]) -> None:
    def of(rows: Rows, name: str) -> tuple[list[float], list[float]]:
        found = [(row["step"], row[name]) for row in rows if name in row]
        return [step for step, _ in found], [value for _, value in found]

    rows = training()
    plot_loss(rows, tmp_path / "loss.png")
    errors, norm, rate = figures[0].axes
    found = curves(errors)
    assert found["training, each step"] == of(rows, "v_mse")
    values = of(rows, "v_mse")[1]
    near = [np.mean(values[max(0, i - 7) : i + 8]) for i in range(30)]  # near the ends, over what there is
    assert found["training, mean over 15 steps"][1] == pytest.approx(near)
    assert found["validation, its own vocal"] == of(rows, "validation_loss")
    assert found["validation, another song's vocal"] == of(rows, "validation_shuffled")
    assert found["the exported model"][0] == [20, 20]
    assert list(curves(norm).values()) == [of(rows, "gradient_norm")]
    assert list(curves(rate).values()) == [of(rows, "learning_rate")]
    rows = without(rows, "validation_shuffled", "gradient_norm", "learning_rate")
    plot_loss(rows, tmp_path / "loss.png")
    plot_loss(without(rows, "validation_loss"), tmp_path / "loss.png")
    trained = {"training, each step", "training, mean over 15 steps"}
    assert [[set(curves(axes)) for axes in figure.axes] for figure in figures[1:]] == [
        [trained | {"validation, its own vocal", "the exported model"}], [trained],
    ]  # fmt: skip


def test_the_histogram_counts_every_chunk_once(tmp_path: Path, figures: list[Figure]) -> None:
    shares = [0.0, 0.04, 0.05, 0.15, 0.31, 0.34, 0.5, 0.5, 0.4999, 0.999, 1.0]
    plot_vocal_shares(shares, 0.33, tmp_path / "plot.png")
    bars = [bar for bar in figures[0].axes[0].patches if isinstance(bar, Rectangle)]
    for kept in (True, False):
        part = [share for share in shares if (share >= 0.33) == kept]
        counts, _ = np.histogram(part, 20, (0, 1))
        of_kind = [bar for bar in bars if (to_rgba(bar.get_facecolor())[0] < 0.5) == kept]  # blue, and grey
        assert sorted(bar.get_height() for bar in of_kind if bar.get_height()) == sorted(counts[counts > 0])
    half, mean = (xy(line)[0] for line in figures[0].axes[0].lines)
    assert (half, mean) == ([0.5, 0.5], pytest.approx([sum(shares) / 11] * 2))
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert any("36% of all chunks" in line for line in words)


def test_a_spectrogram_shows_each_tone_in_its_band_and_time(tmp_path: Path, figures: list[Figure]) -> None:
    time_s = np.arange(20 * 44_100) / 44_100
    tone = np.sin(2 * np.pi * np.where(time_s < 10, 440, 4000) * time_s)
    soundfile.write(tmp_path / "tones.wav", np.stack([tone, tone], axis=1), 44_100)
    levels = mel_spectrogram(tmp_path / "tones.wav")
    centres_hz = librosa.mel_frequencies(n_mels=MEL_BANDS + 2, fmax=22_050)[1:-1]
    loudest_hz = centres_hz[levels.argmax(axis=0)]
    half = levels.shape[1] // 2
    assert loudest_hz[: half - 3] == pytest.approx(440, rel=0.1)
    assert loudest_hz[half + 3 :] == pytest.approx(4000, rel=0.1)
    assert levels.max() == 0.0
    plot_spectrograms({HOSTILE: tmp_path / "tones.wav"}, tmp_path / "plot.png")
    (plot,) = figures[0].axes
    np.testing.assert_allclose(np.asarray(plot.images[0].get_array()), levels)
    assert plot.get_title(loc="left") == drawable(HOSTILE) == r"a \$\frac\$ ?[31m ? " + "W" * 62
    for seconds, columns in ((0.01, 1), (1.0, 22), (100.0, MAX_COLUMNS)):  # no larger for longer audio
        soundfile.write(tmp_path / "noise.flac", noise(seconds).T, 44_100)
        assert mel_spectrogram(tmp_path / "noise.flac").shape == (MEL_BANDS, columns)


def points(axes: Axes, colour: str) -> list[tuple[float, float]]:
    """Where the dots of a colour are, from the top."""
    lines = [line for line in axes.lines if line.get_marker() in {"o", "D"}]
    found = [xy(line) for line in lines if to_hex(line.get_color()) == to_hex(colour)]
    return sorted((y, x) for xs, ys in found for x, y in zip(xs, ys, strict=True))


def test_every_system_has_its_dots_where_the_numbers_are(tmp_path: Path, figures: list[Figure]) -> None:
    plot_following(summary(), tmp_path / "following.png")
    (axes,) = figures[0].axes
    own = [mean for means in MEANS.values() for mean in means]
    assert [x for _, x in points(axes, OWN)] == pytest.approx(own)
    gains = [0.2, 0.15, 0.09] * 4
    others = [mean - gain for mean, gain in zip(own, gains, strict=True)]
    assert [x for _, x in points(axes, OTHER)] == pytest.approx(others)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == [f"chroma likeness, {name}" for name in (REAL, "real (through the codec)", OURS)]
    thin = [line for line in axes.lines if 1 < line.get_linewidth() < 2 and len(xy(line)[0]) == 2]
    assert xy(thin[5])[0] == pytest.approx([0.28, 0.34])
    assert [text.get_text() for text in axes.texts][5] == "n = 20, p = 0.048 after Holm"
    nothing = {"n": 0, "own": None, "other": None, "difference": None, "p": None, "p_least": None}
    following = {"beat_f1": {OURS: nothing, HOSTILE: followed(0.5, 0.4, 0.01)}}
    found = summary(systems=[OURS, HOSTILE, "absent"], scores={}, following=following)
    plot_following(found, tmp_path / "p.png")
    (axes,) = figures[1].axes
    assert points(axes, OWN) == [(1, 0.5)]
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["n = 0, p not measured", "n = 20, p = 0.010 after Holm"]
    assert axes.get_yticklabels()[1].get_text().startswith(r"beat F1, a \$\frac\$ ?[31m ? WWW")


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
    write_flac(write_ten_hours(tmp_path / "long.flac", stated_s=0), tmp_path / "long" / "out.flac")
    assert soundfile.info(tmp_path / "long" / "out.flac").frames == 6 * 60 * 44_100  # what is scored


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
    arrays = write_published(tmp_path / "published", GAP + 40)
    published = import_published(*arrays, tmp_path / "data")
    text = " ".join(written(published, tmp_path).path("report.md").read_text().split())
    for words in ("Vocal share: not measured.", "published without their songs", "all from the end"):
        assert words in text
    assert "songs are synthetic" not in text
