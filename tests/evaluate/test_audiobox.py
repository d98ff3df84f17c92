"""AudioBox: scores against those of the package's own predictor, and weights that are refused."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.audio import SAMPLE_RATE, read_wav
from samuel.config import EvaluationConfig
from samuel.errors import MissingPartError
from samuel.evaluate import pretrained
from samuel.evaluate.pretrained import (
    AUDIOBOX_REPOSITORY,
    audiobox_identity,
    load_audiobox,
    measure_audiobox,
    score_aesthetics,
)
from samuel.evaluate.scores import AUDIOBOX, Each, Evaluation
from samuel.evaluate.summary import NOT_CHOSEN, measure_lineup
from samuel.evaluate.systems import Lineup, System, Track
from samuel.hub import quietly
from tests.evaluate.small_audiobox import small_audiobox
from tests.evaluate.songs import write_songs
from tests.hub import local_hub


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """The checkpoint, and its network."""
    with small_audiobox(tmp_path_factory.mktemp("audiobox")) as found:
        yield found


@pytest.fixture(scope="module")
def checkpoint(written: tuple[Path, Any]) -> Path:
    return written[0]


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Any:
    return load_audiobox(checkpoint)


def tone(seconds: float, pitch: float) -> Any:
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return np.stack([wave, wave]).astype(np.float32)


def music(samples: int, seed: int) -> Any:
    """(2, S): noise whose colour and level change, so that no window is like another."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((2, samples)).cumsum(axis=1)
    return (0.2 * np.sin(noise * np.linspace(0.01, 2.0, samples))).astype(np.float32)


def by_the_package(predictor: Any, track: Any) -> dict[str, float]:
    """The whole track in one call of the package's own predictor."""
    with quietly():
        return predictor.forward([{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE}])[0]


LENGTHS = (SAMPLE_RATE, 10 * SAMPLE_RATE + 1, 10 * SAMPLE_RATE + 441, 25 * SAMPLE_RATE + 7, 1)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_the_package(predictor: Any, batch_size: int) -> None:
    tracks = [music(samples, seed) for seed, samples in enumerate(LENGTHS)]
    for track in (*tracks, np.zeros((2, SAMPLE_RATE), np.float32)):
        row = score_aesthetics(predictor, track, batch_size)
        assert tuple(row) == AUDIOBOX
        assert row == pytest.approx(by_the_package(predictor, track), abs=1e-5)  # they differ by 1e-2


def test_what_cannot_be_scored_has_no_number_and_axes_keep_their_names(predictor: Any) -> None:
    broken = music(SAMPLE_RATE, 2)
    broken[0, 100] = np.nan
    for track in (broken, np.zeros((2, 0), np.float32)):
        assert all(math.isnan(value) for value in score_aesthetics(predictor, track).values())
    # The scale of each axis sets its mean apart: CE 5, CU 6, PC 7, PQ 8.
    row = score_aesthetics(predictor, tone(2.0, 440.0))
    assert {axis: round(value) for axis, value in row.items()} == {"CE": 5, "CU": 6, "PC": 7, "PQ": 8}


def test_a_batch_does_not_grow_with_a_track(predictor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, batches = predictor.forward, []
    monkeypatch.setattr(predictor, "forward", lambda batch: batches.append(len(batch)) or forward(batch))
    score_aesthetics(predictor, music(35 * SAMPLE_RATE, 0), 3)
    assert batches == [3, 1]


def test_damaged_or_other_files_are_refused(written: tuple[Path, Any], tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(written[0].read_bytes()[:-1000])
    with pytest.raises(MissingPartError, match=r"cut\.pt: not a usable checkpoint"):
        load_audiobox(cut)
    for content in ({"state_dict": {}}, {"state_dict": {}, "model_cfg": ["proj_ln"]}, [1]):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(MissingPartError, match="not a checkpoint of audiobox_aesthetics"):
            load_audiobox(tmp_path / "other.pt")
    for ask in (load_audiobox, audiobox_identity):
        with pytest.raises(MissingPartError, match=r"none\.pt: no such file"):
            ask(tmp_path / "none.pt")
    assert audiobox_identity(cut) == hashlib.sha256(cut.read_bytes()).hexdigest()


NORM = "model.wavlm_model.layer_norm.weight"


@pytest.mark.parametrize(
    ("part", "name", "value", "told"),
    [
        ("state_dict", NORM, None, "not a usable checkpoint .*Missing key"),
        ("state_dict", NORM, torch.zeros(7), "not a usable checkpoint .*size mismatch for wavlm_model"),
        ("state_dict", NORM, torch.full((16,), torch.nan), "holds values that are no numbers"),
        ("model_cfg", "proj_ln", None, "not a usable checkpoint .*proj_ln"),
        ("target_transform", "CU", None, "not a checkpoint of audiobox_aesthetics"),
        ("target_transform", "CU", {}, "not a usable checkpoint .*mean"),
    ],
)
def test_another_layout_is_refused(
    written: tuple[Path, Any], tmp_path: Path, part: str, name: str, value: Any, told: str
) -> None:
    found = torch.load(written[0], weights_only=True)
    found[part] = {key: held for key, held in (found[part] | {name: value}).items() if held is not None}
    torch.save(found, tmp_path / "other.pt")
    with pytest.raises(MissingPartError, match=r"other\.pt: .*" + told):
        load_audiobox(tmp_path / "other.pt")


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": {}, "model_cfg": Trap(sprung), "target_transform": {}}, tmp_path / "trap.pt")
    with pytest.raises(MissingPartError, match=r"trap\.pt"):
        load_audiobox(tmp_path / "trap.pt")
    assert not sprung.exists()


def test_weights_of_the_hub_score_as_those_of_a_file(
    written: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written[1].save_pretrained(tmp_path / "shown")  # the package's own way to publish them
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders[AUDIOBOX_REPOSITORY] = tmp_path / "shown"
        fetched = load_audiobox(None)
        assert audiobox_identity(None) == f"{AUDIOBOX_REPOSITORY}@{hub.commit}"
        hub.down = True
        assert audiobox_identity(None) == f"{AUDIOBOX_REPOSITORY}@{hub.commit}"
        hub.down, hub.commit = False, "decade" + "0" * 34
        assert audiobox_identity(None) == f"{AUDIOBOX_REPOSITORY}@{hub.commit}"
    track = tone(2.0, 440.0)
    assert score_aesthetics(fetched, track) == score_aesthetics(load_audiobox(written[0]), track)


def test_what_the_hub_does_not_hold_or_the_cache_has_damaged_is_told(
    written: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written[1].save_pretrained(tmp_path / "shown")
    state = load_file(tmp_path / "shown" / "model.safetensors")
    del state["proj_layer.CE.0.bias"]
    save_file(state, tmp_path / "shown" / "model.safetensors")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders[AUDIOBOX_REPOSITORY] = tmp_path / "shown"
        with pytest.raises(MissingPartError, match=r"lacks 1 tensors, proj_layer\.CE\.0\.bias"):
            load_audiobox(None)
        [weights] = (tmp_path / "cache").rglob("model.safetensors")
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.resolve().write_bytes(content)
        with pytest.raises(MissingPartError, match=r"model\.safetensors: damaged"):
            load_audiobox(None)


@pytest.fixture
def lineup(tmp_path: Path) -> Lineup:
    write_songs(tmp_path, 2, 3.0)
    tracks = tuple(Track(name, name, tmp_path / "vocals" / f"{name}.wav") for name in "abc")
    (tmp_path / "text.wav").write_text("no audio")
    files = {name: tmp_path / "true" / f"{name}.wav" for name in "ab"}
    twice = System("twice", {"a": files["a"], "b": tmp_path / "text.wav", "c": tmp_path / "absent.wav"})
    return Lineup(tracks, (System("real", files), twice))


def evaluation(lineup: Lineup, root: Path, checkpoint: Path | None, each: Each = iter) -> Evaluation:
    config = EvaluationConfig(scorers=("audiobox",), audiobox_path=checkpoint)
    return Evaluation(lineup, "lineup", config, root, each=each)


def test_every_readable_file_is_scored_once_but_again_by_other_weights(
    lineup: Lineup, checkpoint: Path, predictor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def each(items: Iterable[Any]) -> Iterable[Any]:
        asked.extend(items)
        return asked

    found = measure_audiobox(evaluation(lineup, tmp_path / "kept", checkpoint, each))
    assert tuple(found.by_track) == AUDIOBOX
    named = {name: set(rows) for name, rows in found.by_track["PQ"].items()}
    assert named == {"real": {"a", "b"}, "twice": {"a"}}
    audio = [read_wav(tmp_path / "true" / f"{name}.wav") for name in "ab"]
    expected = [score_aesthetics(predictor, track) for track in audio]
    for axis, systems in found.by_track.items():
        assert systems["twice"]["a"] == systems["real"]["a"]
        assert [systems["real"][n] for n in "ab"] == pytest.approx([row[axis] for row in expected], abs=1e-4)
    assert len(asked) == 3  # the two true ones and the text
    assert found.weights == {"audiobox": audiobox_identity(checkpoint)}
    whole = evaluation(Lineup(lineup.tracks, lineup.systems[:1]), tmp_path / "kept", checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "load_audiobox", None)
        assert measure_audiobox(whole).by_track["PQ"]["real"] == found.by_track["PQ"]["real"]
    monkeypatch.setattr(pretrained, "audiobox_identity", lambda _: "others")
    measure_audiobox(whole)
    assert len(list((tmp_path / "kept" / "audiobox").iterdir())) == 4


def test_without_weights_there_are_no_scores_and_the_reason(
    lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, missing = measure_lineup(Evaluation(lineup, "lineup", EvaluationConfig(), tmp_path))
    assert missing["audiobox"] == missing["apa"] == NOT_CHOSEN
    found, missing = measure_lineup(evaluation(lineup, tmp_path, tmp_path / "none.pt"))
    assert "none.pt: no such file" in missing["audiobox"]
    assert found.by_track == {}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    _, missing = measure_lineup(evaluation(lineup, tmp_path, None))
    assert "could not be reached" in missing["audiobox"]
