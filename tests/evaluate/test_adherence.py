"""What becomes of the package's figure; the package itself runs in test_apa, where it is installed."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from samuel.audio import read_wav, write_wav
from samuel.config import EvaluationConfig
from samuel.errors import MissingPartError
from samuel.evaluate import apa as adherence
from samuel.evaluate.apa import NO_REFERENCE, NOT_CHOSEN, Pair, adherence_of
from samuel.evaluate.systems import (
    CEILING,
    REAL,
    Lineup,
    System,
    Track,
)
from tests.evaluate.songs import write_songs

APA = EvaluationConfig(scorers=("apa",))


class Loudness:
    """Stands for the package: level of the candidates over that of the true accompaniments."""

    def __init__(self, embedder: object, references: Iterable[Pair]) -> None:
        assert embedder == "clap"
        self.true = self.level(references)

    def score(self, candidates: Iterable[Pair]) -> float:
        return self.level(candidates) / self.true

    @staticmethod
    def level(pairs: Iterable[Pair]) -> float:
        return float(np.mean([np.abs(accompaniment).mean() for _, accompaniment in pairs]))


@pytest.fixture
def lineup(tmp_path: Path) -> Lineup:
    write_songs(tmp_path, 3, 3.0)
    (tmp_path / "half").mkdir()
    for name in "ab":
        true = read_wav(tmp_path / "true" / f"{name}.wav")
        write_wav(tmp_path / "half" / f"{name}.wav", 0.5 * true)
    (tmp_path / "half" / "c.wav").write_text("no audio")
    files = {whose: {n: tmp_path / whose / f"{n}.wav" for n in "abc"} for whose in ("true", "half")}
    tracks = tuple(Track(name, name, tmp_path / "vocals" / f"{name}.wav") for name in "abc")
    return Lineup(tracks, (System(REAL, files["true"]), System("Half", files["half"])))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adherence, "load_clap", lambda _: "clap")
    monkeypatch.setattr(adherence, "Apa", Loudness)


@pytest.mark.usefixtures("package")
def test_every_other_system_is_measured_by_the_true_pairs(lineup: Lineup, tmp_path: Path) -> None:
    found = adherence_of(lineup, ["lineup"], APA, tmp_path / "kept")
    assert found.missing is None
    assert found.by_system.keys() == {"Half"}
    assert found.by_system["Half"] == pytest.approx(0.5, abs=0.1)  # of two songs; the third is no audio


@pytest.mark.usefixtures("package")
def test_without_recordings_the_ceiling_is_the_measure(lineup: Lineup, tmp_path: Path) -> None:
    real, half = lineup.systems
    through = Lineup(lineup.tracks, (System(CEILING, real.files), half))
    assert adherence_of(through, ["lineup"], APA, tmp_path).by_system.keys() == {"Half"}
    assert adherence_of(Lineup(lineup.tracks, (half,)), ["lineup"], APA, tmp_path).missing == NO_REFERENCE


@pytest.mark.usefixtures("package")
def test_what_was_measured_is_found_for_the_same_lineup_and_weights(
    lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adherence_of(lineup, ["lineup"], APA, tmp_path / "kept")
    monkeypatch.setattr(adherence, "Apa", None)
    assert adherence_of(lineup, ["lineup"], APA, tmp_path / "kept") == first
    absent = APA.model_copy(update={"apa_path": tmp_path / "none.pt"})
    assert "none.pt: no such file" in (
        adherence_of(lineup, ["lineup"], absent, tmp_path / "kept").missing or ""
    )


def test_what_is_missing_is_said_and_asked_for_again(
    lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: object) -> None:
        raise MissingPartError("no weights")

    assert adherence_of(lineup, ["lineup"], EvaluationConfig(), tmp_path).missing == NOT_CHOSEN
    monkeypatch.setattr(adherence, "load_clap", missing)
    assert adherence_of(lineup, ["lineup"], APA, tmp_path / "kept").missing == "no weights"
    monkeypatch.setattr(adherence, "load_clap", lambda _: "clap")
    monkeypatch.setattr(adherence, "Apa", Loudness)
    assert adherence_of(lineup, ["lineup"], APA, tmp_path / "kept").missing is None
