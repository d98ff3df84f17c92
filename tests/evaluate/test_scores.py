import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from samuel.artifacts import Artifact, read_json, sha256
from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig, EvaluationConfig
from samuel.evaluate.distribution import FolderSpace
from samuel.evaluate.features import features
from samuel.evaluate.following import FOLLOWING, follow
from samuel.evaluate.signal import log_mel_db, log_mel_distance_db
from samuel.evaluate.summary import OTHERS, OWN, score_lineup
from samuel.evaluate.systems import folders
from tests.evaluate.songs import write_songs

SECONDS = 12.0


@dataclass(frozen=True)
class Nothing:
    """Nothing is compared in latent space."""

    codec: None = None
    identity: str = "nothing"

    @property
    def described(self) -> dict[str, str]:
        return {"codec": "none"}

    def look(self, latents: Any) -> Any:
        return {}, {"distribution": "nothing was asked"}


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


def score(place: Path, root: Path, *systems: str, references: bool = True, **options: Any) -> Artifact:
    named = {name: place / name for name in systems}
    lineup = folders(place / "vocals", named, place / "true" if references else None)
    return score_lineup(lineup, EvaluationConfig(), root, options.pop("space", Nothing()), **options)


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
    assert distance["value"] == pytest.approx(log_mel_distance_db(spectra[0], spectra[1]), abs=1e-4)
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


def test_the_summary_is_that_of_the_rows(scored: Artifact) -> None:
    summary = json.loads(scored.path("summary.json").read_text())
    assert summary["systems"] == ["real", "noise", "silent", "shifted"]
    assert summary["tracks"] == 5
    for name in FOLLOWING:
        values = [row["value"] for row in rows_of(scored, system="shifted", score=name, against=OWN)]
        found = summary["scores"][name]["shifted"]
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["low"] <= found["mean"] <= found["high"]
    assert summary["not_measured"]["distribution"] == "nothing was asked"
    assert "was not chosen" in summary["not_measured"]["audiobox"]


def test_scores_are_found_again_and_a_changed_file_makes_new_ones(
    scored: Artifact, place: Path, tmp_path: Path
) -> None:
    again = score(place, scored.folder.parent, "noise", "silent", "shifted")
    assert (again.made, again.folder) == (False, scored.folder)
    other = score(place, scored.folder.parent, "noise", references=False)
    assert other.made
    summary = read_json(other.path("summary.json"))
    assert "log_mel_distance_db" not in summary["scores"]


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


def test_vocals_are_known_by_their_bytes(scored: Artifact, place: Path) -> None:
    vocals = read_json(scored.path("summary.json"))["vocals"]
    assert vocals == {name: sha256(place / "vocals" / f"{name}.wav") for name in "abcde"}


def test_a_track_without_a_readable_vocal_is_left_out(place: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    for song in "abc":
        (vocals / f"{song}.wav").write_bytes((place / "vocals" / f"{song}.wav").read_bytes())
    (vocals / "d.wav").write_text("no audio")
    write_wav(vocals / "e.wav", np.zeros((2, SAMPLE_RATE * 6), np.float32))
    lineup = folders(vocals, {"true": place / "true"})
    summary = read_json(score_lineup(lineup, EvaluationConfig(), tmp_path, Nothing()).path("summary.json"))
    assert summary["tracks"] == 4
    assert {p["track"]: p["system"] for p in summary["problems"]}["d"] == "the vocals"
    assert summary["scores"]["level_dbfs"]["true"]["n"] == 4
    assert summary["scores"]["beat_f1"]["true"]["n"] == 3  # nothing can follow silence


def test_one_track_alone_has_no_others(place: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    (vocals / "a.wav").write_bytes((place / "vocals" / "a.wav").read_bytes())
    summary = read_json(
        score_lineup(folders(vocals, {"true": place / "true"}), EvaluationConfig(), tmp_path, Nothing()).path(
            "summary.json"
        )
    )
    assert summary["not_measured"]["other vocals"] == "a single track has no other song's vocal"
    assert summary["following"]["beat_f1"]["true"]["p"] is None


def test_what_a_system_states_of_its_cost_is_in_the_summary(place: Path, tmp_path: Path) -> None:
    renders = tmp_path / "renders"
    renders.mkdir()
    (renders / "a.wav").write_bytes((place / "true" / "a.wav").read_bytes())
    (renders / "system.json").write_text(json.dumps({"parameters": 5, "device": "cpu"}))
    lineup = folders(place / "vocals", {"renders": renders})
    scores = score_lineup(lineup, EvaluationConfig(), tmp_path, Nothing(), {"SAMUeL": {"parameters": 15}})
    efficiency = read_json(scores.path("summary.json"))["efficiency"]
    assert {name: row["parameters"] for name, row in efficiency.items()} == {"renders": 5, "SAMUeL": 15}


@pytest.fixture
def codec() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


def test_latents_of_folders_are_compared_with_the_true_ones(
    place: Path, tmp_path: Path, codec: Codec
) -> None:
    scores = score(place, tmp_path, "noise", "shifted", space=FolderSpace(codec))
    summary = read_json(scores.path("summary.json"))
    found = summary["distribution"]
    # The same accompaniments are about as far from those of other songs as the true ones are.
    assert found["frechet"]["shifted"] < found["floor"]["shifted"]["high"]
    assert found["frechet"]["noise"] > found["floor"]["noise"]["high"] > 0
    assert summary["codec"] == codec.identity
    assert summary["not_measured"]["nearest"].startswith("no training set was given")
