from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from samuel.audio import read_wav
from samuel.config import EvaluationConfig
from samuel.evaluate import audiobox
from samuel.evaluate.audiobox import NOT_CHOSEN, aesthetics_of
from samuel.evaluate.systems import Lineup, System, Track
from tests.evaluate.small_audiobox import small_audiobox
from tests.evaluate.songs import write_songs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_audiobox(tmp_path_factory.mktemp("audiobox")) as (path, _):
        yield path


@pytest.fixture
def lineup(tmp_path: Path) -> Lineup:
    write_songs(tmp_path, 2, 3.0)
    tracks = tuple(Track(name, name, tmp_path / "vocals" / f"{name}.wav") for name in "abc")
    (tmp_path / "text.wav").write_text("no audio")
    files = {name: tmp_path / "true" / f"{name}.wav" for name in "ab"}
    twice = System("twice", {"a": files["a"], "b": tmp_path / "text.wav", "c": tmp_path / "absent.wav"})
    return Lineup(tracks, (System("real", files), twice))


def chosen(checkpoint: Path | None) -> EvaluationConfig:
    return EvaluationConfig(scorers=("audiobox",), audiobox_path=checkpoint)


def test_every_readable_file_is_scored_once(lineup: Lineup, checkpoint: Path, tmp_path: Path) -> None:
    asked: list[Any] = []

    def each(items: Iterable[Any]) -> Iterable[Any]:
        asked.extend(items)
        return asked

    found = aesthetics_of(lineup, chosen(checkpoint), tmp_path / "kept", each)
    assert found.missing is None
    assert {name: set(rows) for name, rows in found.rows.items()} == {"real": {"a", "b"}, "twice": {"a"}}
    assert found.rows["twice"]["a"] == found.rows["real"]["a"]
    predictor = audiobox.load_audiobox(checkpoint)
    audio = [read_wav(tmp_path / "true" / f"{name}.wav") for name in "ab"]
    expected = list(audiobox.score(predictor, audio))
    assert [found.rows["real"][name] for name in "ab"] == [pytest.approx(row, abs=1e-4) for row in expected]
    assert len(asked) == 3  # the two true ones and the text


def test_what_was_scored_is_not_scored_again(
    lineup: Lineup, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Lineup(lineup.tracks, lineup.systems[:1])
    first = aesthetics_of(whole, chosen(checkpoint), tmp_path / "kept")
    monkeypatch.setattr(audiobox, "load_audiobox", None)
    assert aesthetics_of(whole, chosen(checkpoint), tmp_path / "kept") == first


def test_other_weights_score_anew(
    lineup: Lineup, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aesthetics_of(lineup, chosen(checkpoint), tmp_path / "kept")
    before = len(list((tmp_path / "kept").iterdir()))
    monkeypatch.setattr(audiobox, "identity", lambda _: "others")
    aesthetics_of(lineup, chosen(checkpoint), tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2 * before


def test_without_weights_there_are_no_scores_and_the_reason(
    lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert aesthetics_of(lineup, EvaluationConfig(), tmp_path).missing == NOT_CHOSEN
    missing = aesthetics_of(lineup, chosen(tmp_path / "none.pt"), tmp_path)
    assert "none.pt: no such file" in (missing.missing or "")
    assert missing.rows == {}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "could not be reached" in (aesthetics_of(lineup, chosen(None), tmp_path).missing or "")
