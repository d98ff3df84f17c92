import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from samuel.artifacts import Artifact, sha256
from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.cli import main
from samuel.codecs import load_codec
from samuel.config import CodecConfig, EvaluationConfig
from samuel.evaluate import summary as module
from samuel.evaluate.distribution import Space
from samuel.evaluate.features import Features, features, log_mel_db
from samuel.evaluate.scores import HIGHER, REGISTRY, Evaluation, Findings, Score, follow, register
from samuel.evaluate.summary import OTHERS, OWN, pairings, score_lineup
from samuel.evaluate.systems import folders
from samuel.reading import read_json
from tests.evaluate.small_audiobox import small_audiobox
from tests.evaluate.songs import band, tune, write_songs

Sides = tuple[dict[str, Features], dict[str, Features]]
SECONDS = 12.0
CODEC = load_codec(CodecConfig(), torch.device("cpu"))
SPACE = Space(CODEC.info, CODEC)
FOLLOWING = ("chroma_likeness", "beat_f1", "onset_correlation", "key_agreement")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five songs; `noise`, `silent` and `shifted`, in which each song has the next one's accompaniment."""
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 5, SECONDS)
    rng = np.random.default_rng(0)
    for name in ("noise", "silent", "shifted"):
        (root / name).mkdir()
    for place, song in enumerate("abcde"):
        samples = (0.2 * rng.normal(size=(2, int(SECONDS * SAMPLE_RATE)))).astype(np.float32)
        write_wav(root / "noise" / f"{song}.wav", samples, "PCM_16")
        write_wav(root / "silent" / f"{song}.wav", 0 * samples, "PCM_16")
        following = "abcde"[(place + 1) % 5]
        (root / "shifted" / f"{song}.wav").write_bytes((root / "true" / f"{following}.wav").read_bytes())
    return root


def score(place: Path, root: Path, *systems: str, references: bool = True) -> Artifact:
    named = {name: place / name for name in systems}
    lineup = folders(place / "vocals", named, place / "true" if references else None)
    return score_lineup(lineup, EvaluationConfig(), root, SPACE)


@pytest.fixture(scope="module")
def scored(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return score(place, tmp_path_factory.mktemp("scores"), "noise", "silent", "shifted")


def rows_of(scores: Artifact, **wanted: Any) -> list[dict[str, Any]]:
    rows = pq.read_table(scores.path("scores.parquet")).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_every_number_is_a_row(scored: Artifact, place: Path) -> None:
    (row,) = rows_of(scored, system="shifted", track="b", score="chroma_likeness", against=OWN)
    vocal, made = (features(read_wav(place / folder / "b.wav")) for folder in ("vocals", "shifted"))
    assert row["value"] == pytest.approx(follow(vocal, made)["chroma_likeness"], abs=1e-6)
    (against_others,) = rows_of(scored, system="real", track="b", score="beat_f1", against=OTHERS)
    band = features(read_wav(place / "true" / "b.wav"))
    others = [follow(features(read_wav(place / "vocals" / f"{o}.wav")), band)["beat_f1"] for o in "acde"]
    assert against_others["value"] == pytest.approx(np.mean(others), abs=1e-6)
    (distance,) = rows_of(scored, system="noise", track="b", score="log_mel_distance_db")
    spectra = [log_mel_db(read_wav(place / folder / "b.wav")) for folder in ("noise", "true")]
    assert distance["value"] == pytest.approx(np.abs(spectra[0] - spectra[1]).mean(), abs=1e-4)
    assert rows_of(scored, system="real", score="log_mel_distance_db") == []
    assert len(rows_of(scored, score="level_dbfs")) == 4 * 5


def test_the_true_accompaniments_rank_above_all_others(scored: Artifact) -> None:
    summary = read_json(scored.path("summary.json"))
    for name in ("chroma_likeness", "beat_f1", "key_agreement"):
        means = {system: found["mean"] for system, found in summary["scores"][name].items()}
        assert all(means["real"] > mean for system, mean in means.items() if system != "real"), name
    real = summary["following"]["chroma_likeness"]["real"]
    assert real["difference"]["low"] > 0
    assert real["p"] == pytest.approx(1 / 120, abs=0.005)  # the best of all orders of five
    assert real["p_least"] == pytest.approx(1 / 120)
    assert summary["following"]["chroma_likeness"]["shifted"]["p"] > 0.05


def test_the_summary_is_that_of_the_rows(scored: Artifact, place: Path) -> None:
    summary = json.loads(scored.path("summary.json").read_text())
    assert summary["systems"] == ["real", "noise", "silent", "shifted"]
    assert summary["tracks"] == 5
    assert summary["vocals"] == {name: sha256(place / "vocals" / f"{name}.wav") for name in "abcde"}
    for name in FOLLOWING:
        values = [row["value"] for row in rows_of(scored, system="shifted", score=name, against=OWN)]
        found = summary["scores"][name]["shifted"]
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["low"] <= found["mean"] <= found["high"]
    assert "was not chosen" in summary["not_measured"]["audiobox"]


def test_scores_are_found_again_and_a_changed_lineup_makes_new_ones(scored: Artifact, place: Path) -> None:
    again = score(place, scored.folder.parent, "noise", "silent", "shifted")
    assert (again.made, again.folder) == (False, scored.folder)
    other = score(place, scored.folder.parent, "noise", references=False)
    assert other.made
    summary = read_json(other.path("summary.json"))
    assert "log_mel_distance_db" not in summary["scores"]
    assert "no true accompaniments" in summary["not_measured"]["log_mel_distance_db"]
    (place / "alone").mkdir()
    (place / "alone" / "a.wav").write_bytes((place / "vocals" / "a.wav").read_bytes())
    lineup = folders(place / "alone", {"true": place / "true"})
    alone = score_lineup(lineup, EvaluationConfig(), scored.folder.parent, SPACE)
    summary = read_json(alone.path("summary.json"))
    assert summary["not_measured"]["other vocals"] == "a single track has no other song's vocal"
    assert summary["following"]["beat_f1"]["true"]["p"] is None


def test_bad_files_are_named_and_the_rest_is_scored(place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "songs" / "bad"
    bad.mkdir(parents=True)
    for folder in ("vocals", "true"):
        (bad.parent / folder).symlink_to(place / folder)
    band = read_wav(place / "true" / "a.wav")
    soundfile.write(bad / "a.ogg", band[0, :SAMPLE_RATE], SAMPLE_RATE)  # one second, mono
    write_wav(bad / "b.wav", 4.0 * band)
    write_wav(bad / "c.wav", 0 * band)
    (bad / "d.wav").write_text("no audio")
    (bad / "f.wav").write_text("")
    scores = score(bad.parent, tmp_path / "scores", "bad")
    summary = read_json(scores.path("summary.json"))
    told = {
        (problem["track"], problem["message"])
        for problem in summary["problems"]
        if problem["system"] == "bad"
    }
    words = {
        "a": "1.0 s, its vocal 12.0 s: compared over the first 1.0 s", "b": "clipped: ", "c": "silent",
        "d": "d.wav: not readable as audio", "e": "no file of this name", "f": "no vocal of this name",
        "": "mono: both channels are the same in ",
    }  # fmt: skip
    for track, said in words.items():
        assert any(name == track and said in message for name, message in told), (track, told)
    assert summary["scores"]["level_dbfs"]["bad"]["n"] == 3
    assert summary["scores"]["level_dbfs"]["real"]["n"] == 5
    silent = rows_of(scores, system="bad", track="c", against=OWN)
    assert [row["value"] for row in silent] == [0.0] * 4


def test_a_track_without_a_readable_vocal_is_left_out(place: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    for song in "abc":
        (vocals / f"{song}.wav").write_bytes((place / "vocals" / f"{song}.wav").read_bytes())
    (vocals / "d.wav").write_text("no audio")
    write_wav(vocals / "e.wav", np.zeros((2, SAMPLE_RATE * 6), np.float32))
    lineup = folders(vocals, {"true": place / "true"})
    summary = read_json(score_lineup(lineup, EvaluationConfig(), tmp_path, SPACE).path("summary.json"))
    assert summary["tracks"] == 4
    assert {p["track"]: p["system"] for p in summary["problems"]}["d"] == "the vocals"
    assert summary["scores"]["level_dbfs"]["true"]["n"] == 4
    assert summary["scores"]["beat_f1"]["true"]["n"] == 3  # nothing can follow silence


def added(name: str, needs: Any, measure: Any) -> Score:
    return Score(name, f"added {name}", "apples", HIGHER, needs, measure, "a score that was added", digits=1)


@pytest.fixture
def registry() -> Iterator[None]:
    """The registry as it is, again when the test is over."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.mark.usefixtures("registry")
def test_an_added_score_is_in_rows_summary_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_songs(tmp_path, 2, 6.0)

    def of_whole(evaluation: Evaluation) -> Findings:
        names = [system.name for system in evaluation.lineup.systems]
        return Findings({"by_file": {n: {"a": 7.0} for n in names}}, {"whole": dict.fromkeys(names, 0.5)})

    register(
        added("peak", "audio", lambda audio: float(np.abs(audio).max())),
        added("both", "vocal", lambda vocal, made: min(vocal.duration_s, made.duration_s)),
        added("longer", "reference", lambda true, made: made.features.duration_s - true.features.duration_s),
        added("by_file", "lineup", of_whole),
        added("whole", "lineup", of_whole),
    )
    folders = ["--vocals", tmp_path / "vocals", "--references", tmp_path / "true"]
    folders += ["--system", f"S={tmp_path / 'vocals'}", "-o", tmp_path / "out", "--audiobox"]
    with small_audiobox(tmp_path) as (checkpoint, _):
        assert main(["evaluate", *map(str, folders), f"evaluation.audiobox_path={checkpoint}"]) == 0
    page, text, table = map(Path, capsys.readouterr().out.split("\n")[:3])
    found = {(row["score"], row["against"]) for row in pq.read_table(table).to_pylist()}
    assert found >= {("peak", None), ("both", OWN), ("both", OTHERS), ("longer", None), ("by_file", None)}
    summary = read_json(page.parent / "summary.json")
    assert summary["scores"]["peak"]["S"]["n"] == 2
    assert summary["scores"]["both"]["S"]["mean"] == pytest.approx(6.0)
    assert summary["following"]["both"]["S"]["n"] == 2
    assert summary["scores"]["longer"].keys() == {"real (through the codec)", "S"}
    assert summary["whole"]["S"] == 0.5
    assert summary["scores"]["PQ"]["S"]["n"] == 2
    for name in ("peak", "both", "longer", "by_file", "whole"):
        assert f"added {name} (apples, higher is better)" in text.read_text().replace("\\", "")


def test_latents_of_folders_are_compared_with_the_true_ones(scored: Artifact) -> None:
    summary = read_json(scored.path("summary.json"))
    found = summary["distribution"]
    # The same accompaniments are about as far from those of other songs as the true ones are.
    assert found["frechet"]["shifted"] < found["floor"]["shifted"]["high"]
    assert found["frechet"]["noise"] > found["floor"]["noise"]["high"] > 0
    assert summary["codec"] == str(CODEC.info)
    assert summary["not_measured"]["nearest"].startswith("no training set was given")


KEYS = {"a": (60, 0.4), "b": (65, 0.5), "c": (58, 0.61), "d": (63, 0.55)}


@pytest.fixture(scope="module")
def features_of_songs() -> Sides:
    vocals = {name: features(tune(*key, 8.0)) for name, key in KEYS.items()}
    return vocals, {name: features(band(*key, 8.0)) for name, key in KEYS.items()}


def test_a_matrix_holds_every_accompaniment_with_every_vocal_of_a_block(
    features_of_songs: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocals, bands = features_of_songs
    found = pairings(vocals, bands)
    assert tuple(found) == FOLLOWING
    for score, paired in found.items():
        assert paired.tracks == [list("abcd")]
        for row, name in enumerate("abcd"):
            for column, vocal in enumerate("abcd"):
                expected = follow(vocals[vocal], bands[name])[score]
                assert paired.blocks[0][row, column] == pytest.approx(expected, nan_ok=True)
    monkeypatch.setattr(module, "BLOCK", 2)
    paired = pairings(vocals, bands)["chroma_likeness"]
    assert paired.tracks == [["a", "b"], ["c", "d"]]
    assert paired.others()["c"] == follow(vocals["d"], bands["c"])["chroma_likeness"]


def test_tracks_of_other_lengths_are_compared_over_the_shortest() -> None:
    """Over its own length, an accompaniment that hears nothing would follow by it."""
    lengths = {"a": 8.0, "b": 7.0, "c": 9.5, "d": 2.0}
    vocals = {name: features(tune(*key, lengths[name])) for name, key in KEYS.items()}
    bands = {name: features(band(*key, lengths[name])) for name, key in KEYS.items()}
    found = pairings(vocals, bands)["chroma_likeness"]
    assert found.tracks == [["a", "b", "c"]]
    assert found.own == {name: follow(vocals[name], bands[name])["chroma_likeness"] for name in KEYS}
    shortest = {name: features(tune(*KEYS[name], 9.5)[:, : 7 * SAMPLE_RATE]) for name in "abc"}
    played = features(band(*KEYS["c"], 9.5)[:, : 7 * SAMPLE_RATE])
    expected = [follow(shortest[name], played)["chroma_likeness"] for name in "abc"]
    assert found.blocks[0][2] == pytest.approx(expected, abs=0.04)  # but for the frames at the end
