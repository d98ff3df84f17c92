from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from samuel.audio import write_wav
from samuel.config import CodecConfig, EvaluationConfig
from samuel.errors import MissingPartError, SettingsError
from samuel.evaluate.scores import means, score_tracks
from samuel.evaluate.tracks import choose_pairs, other_song, require_codec
from samuel.files import Entry, make_entry, read_json
from samuel.popdb.shards import Popdb, write_popdb
from samuel.report.plots import drawable, plot_spectrograms, plot_vocal_shares
from samuel.report.report import caveats, plain, vocal_share_report, write_report
from tests.lines import append_line
from tests.popdb.latents import encoded_song, small_settings

STEMS = ("vocal", "accompaniment", "reference", "mix", "other_vocal")
TITLE = "A <b>song</b> | with [a](link), $1 & `code`"


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "abc"], small_settings(tmp_path))


def track(root: Path, name: str, seed: int, stems: tuple[str, ...] = STEMS) -> Entry:
    def make(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        for stem in stems:
            write_wav(
                folder / f"{stem}.wav", (0.1 * rng.normal(size=(2, 44_100))).astype(np.float32), "PCM_24"
            )
        return {"pair_id": name, "title": TITLE, "start_s": 47.5}

    return make_entry(root / name, make)


def described(popdb: Popdb, **info: Any) -> Popdb:
    return replace(popdb, state=replace(popdb.state, info=popdb.info | info))


def with_rows(popdb: Popdb, rows: list[dict[str, Any]]) -> Popdb:
    return replace(popdb, table=pa.Table.from_pylist(rows, schema=popdb.table.schema))


def model_entry(root: Path, *, held_out: bool = True) -> Entry:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "model.safetensors").write_bytes(b"weights")
        write_metrics(folder / "metrics.jsonl")
        progress = {"best_loss": 0.5, "best_step": 20}
        return {"training": {"batch_size": 4}, "progress": progress, "held_out": held_out}

    return make_entry(root / "model", make)


def write_metrics(path: Path, steps: int = 20) -> None:
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "v_mse": 1.0 - 0.04 * step, "seconds": 0.5}
        if step % 10 == 0:
            row["validation_loss"] = 0.6
        append_line(path, row)


def test_the_report_says_what_was_measured_and_what_was_not(popdb: Popdb, tmp_path: Path) -> None:
    tracks = [track(tmp_path, name, seed) for seed, name in enumerate(("a-000", "b-001"))]
    scores = score_tracks(tracks, EvaluationConfig(), tmp_path / "scores")
    report = write_report(popdb, model_entry(tmp_path), tracks, scores, tmp_path)
    text = report.path("report.md").read_text()
    assert "6 pairs from 3 of 3 songs" in text
    assert "measured on 6 chunks of 2.97 s: 0.500 on average; 6 of them (100.0%)" in text
    assert "![Vocal share](vocal-share.png)" in text
    assert "20 steps of 4 pairs, 0.50 s a step (median)." in text
    assert "What the vocal is worth: not measured" in text
    assert "0.780 over the first ten steps, 0.380 over the last ten; 0.500 on held-out songs" in text
    assert "not measured, the scorer was not chosen" in text
    assert "songs are synthetic" in text
    assert "| chroma_likeness | 0." in text
    assert "<b>" not in text
    assert {"loss.png", "vocal-share.png", "spectrogram-a-000.png", "spectrogram-b-001.png"} < set(
        report.sha256
    )
    assert not write_report(popdb, model_entry(tmp_path), tracks, scores, tmp_path).made


def test_the_vocal_share_is_that_of_all_chunks_whatever_was_left_out(tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, "a", 3), encoded_song(tmp_path, "b")]
    for song, shares in zip(songs, ((0.2, 0.55, 0.9), (0.1, 0.5)), strict=True):
        for chunk, share in zip(song.record["chunks"], shares, strict=True):
            chunk["vocal_share"] = share
    popdb = write_popdb(songs, small_settings(tmp_path, popdb={"min_vocal_share": 0.15}))
    text = vocal_share_report(popdb, tmp_path)
    assert "5 chunks of 2.97 s: 0.450 on average; 3 of them (60.0%)" in text
    assert "`popdb.min_vocal_share` = 0.15: 1 of the chunks left out." in text
    assert (tmp_path / "vocal-share.png").read_bytes().startswith(b"\x89PNG")
    everything = write_popdb(songs, small_settings(tmp_path))
    assert "`popdb.min_vocal_share` = 0: all kept" in vocal_share_report(everything, tmp_path)


@pytest.mark.parametrize("least", [0.0, 0.33])
def test_the_histogram_counts_every_chunk_once(
    least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    shares = [0.0, 0.04, 0.05, 0.15, 0.31, 0.34, 0.5, 0.5, 0.4999, 0.999, 1.0]
    plot_vocal_shares(shares, least, tmp_path / "plot.png")
    bars = [bar for bar in drawn[0].axes[0].patches if isinstance(bar, Rectangle)]
    for kept, members in (
        (True, [share for share in shares if share >= least]),
        (False, [share for share in shares if share < least]),
    ):
        counts: dict[float, int] = {}
        for share in members:
            start = min(int(100 * share) // 5 * 5, 95) / 100
            counts[start] = counts.get(start, 0) + 1
        of_kind = [bar for bar in bars if (to_rgba(bar.get_facecolor())[0] < 0.5) == kept]  # blue, and grey
        assert {round(b.get_x(), 9): int(b.get_height()) for b in of_kind if b.get_height()} == counts
    half, mean = (np.asarray(line.get_xdata()).tolist() for line in drawn[0].axes[0].lines)
    assert half == [0.5, 0.5]
    assert mean == pytest.approx([sum(shares) / 11] * 2)
    words = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert any("36% of all chunks" in line for line in words)
    assert any("left out" in line for line in words) == (least > 0)


def test_caveats_name_the_embedded_parts_alone(popdb: Popdb) -> None:
    info = {"source": "csv", "separator": "repet-sim/1 n_fft=2048", "codec": "stable-audio-open/1"}
    assert caveats(described(popdb, **info)).count("\n- ") == 1
    assert "vocal shares are too high" in caveats(described(popdb, **info))
    assert caveats(described(popdb, **info | {"separator": "demucs/4.1.0 htdemucs"})) == ""
    published = info | {"source": "published", "separator": "demucs/published"}
    assert "published without their songs" in caveats(described(popdb, **published))


def test_a_model_without_held_out_songs_says_so(popdb: Popdb, tmp_path: Path) -> None:
    tracks = [track(tmp_path, "a-000", 0)]
    scores = score_tracks(tracks, EvaluationConfig(), tmp_path / "scores")
    report = write_report(popdb, model_entry(tmp_path, held_out=False), tracks, scores, tmp_path)
    assert "none could be held out" in report.path("report.md").read_text()


def test_every_track_is_scored_against_its_own_and_another_vocal(tmp_path: Path) -> None:
    tracks = [track(tmp_path, name, seed) for seed, name in enumerate(("a", "b", "c"))]
    rows = read_json(score_tracks(tracks, EvaluationConfig(), tmp_path / "scores").path("scores.json"))
    assert sorted((row["pair_id"], row["kind"]) for row in rows) == sorted(
        (name, kind) for name in "abc" for kind in ("real", "generated", "other vocal")
    )
    by_kind = {row["kind"]: row["scores"] for row in rows if row["pair_id"] == "a"}
    assert by_kind["real"]["log_mel_distance_db"] == 0.0
    assert by_kind["generated"]["onset_correlation"] != by_kind["other vocal"]["onset_correlation"]


def test_a_dataset_of_one_song_has_no_other_vocal(tmp_path: Path) -> None:
    rows = read_json(
        score_tracks([track(tmp_path, "a", 0, STEMS[:-1])], EvaluationConfig(), tmp_path / "s").path(
            "scores.json"
        )
    )
    assert {row["kind"] for row in rows} == {"real", "generated"}


def test_means_leave_out_what_was_not_measured() -> None:
    rows = [
        {"kind": "real", "scores": {"PQ": 7.0, "chroma": None}},
        {"kind": "real", "scores": {"PQ": 5.0, "chroma": None}},
        {"kind": "generated", "scores": {"PQ": 3.0}},
    ]
    assert means(rows) == {"PQ": {"real": 6.0, "generated": 3.0}, "chroma": {"real": None}}


def test_the_chunk_with_most_singing_of_each_song_is_chosen(popdb: Popdb) -> None:
    measured = {("a", 0): 0.1, ("a", 1): 0.6, ("b", 0): 0.0, ("d", 1): 0.2}
    shares = measured | {("c", 0): None, ("c", 1): None, ("d", 0): None}
    index = [
        {"song_id": song, "pair_id": f"{song}-{chunk}", "vocal_share": share, "split": "validation"}
        for (song, chunk), share in sorted(shares.items(), key=lambda item: item[0])
    ]
    popdb = with_rows(popdb, index)
    assert [pair["pair_id"] for pair in choose_pairs(popdb, 10)] == ["a-1", "b-0", "c-0", "d-1"]
    assert len(choose_pairs(popdb, 2)) == 2


def test_a_hostile_title_is_no_markup() -> None:
    assert plain("a\n# b <i> | [x](y) $") == r"a \# b \<i\> \| \[x\]\(y\) \$"


def test_the_other_vocal_is_of_another_song(popdb: Popdb) -> None:
    for pair in popdb.index:
        other = other_song(popdb, pair)
        assert other is not None
        assert other["song_id"] != pair["song_id"]
    alone = replace(popdb, table=popdb.table.slice(0, 2))
    assert other_song(alone, popdb.index[0]) is None


@pytest.mark.parametrize(
    ("title", "drawn"),
    [
        ("$1 \x1b[31m\nred", r"\$1 ?[31m red"),
        ("愛 \N{GUITAR}", "? ?"),
        ("x" * 300, "x" * 80),
        ("Beyoncé", "Beyoncé"),
    ],
)
def test_a_hostile_title_is_drawn_as_one_plain_line(title: str, drawn: str, tmp_path: Path) -> None:
    assert drawable(title) == drawn
    plot_spectrograms({"vocal": np.zeros((2, 44_100), dtype=np.float32)}, title, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_another_codec_is_refused_before_the_training(popdb: Popdb) -> None:
    require_codec(popdb, CodecConfig())
    with pytest.raises(SettingsError, match="holds latents of 'mel'"):
        require_codec(popdb, CodecConfig(name="stable-audio-open"))


def test_only_the_chosen_scorers_score(tmp_path: Path) -> None:
    config = EvaluationConfig(scorers=("audiobox",), audiobox_path=tmp_path / "weights")
    (tmp_path / "weights").write_text("no checkpoint")
    with pytest.raises(MissingPartError, match="weights"):
        score_tracks([track(tmp_path, "a", 0)], config, tmp_path / "scores")
