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


class Watched:
    """The package's predictor, and what it is given."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.device = predictor, predictor.device
        self.batches: list[Any] = []

    def audio_resample_mono(self, data_list: list[dict[str, Any]]) -> Any:
        return self.predictor.audio_resample_mono(data_list)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        self.batches.append(batch)
        return self.predictor.forward(batch)


def by_the_package(predictor: Any, track: Any) -> dict[str, float]:
    """The whole track in one call of the package's own predictor."""
    with quietly():
        return predictor.forward([{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE}])[0]


LENGTHS = {
    "1 s": SAMPLE_RATE, "10 s": 10 * SAMPLE_RATE, "one sample more": 10 * SAMPLE_RATE + 1,
    "a little more": 10 * SAMPLE_RATE + 441, "25 s": 25 * SAMPLE_RATE + 7, "one sample": 1,
}  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_those_of_the_package(predictor: Any, batch_size: int) -> None:
    tracks = [music(samples, seed) for seed, samples in enumerate(LENGTHS.values())]
    silence, mono = np.zeros((2, SAMPLE_RATE), np.float32), np.stack([tracks[4][0]] * 2)
    for track in (*tracks, silence, mono):
        row = score_aesthetics(predictor, track, batch_size)
        assert tuple(row) == AUDIOBOX
        assert row == pytest.approx(by_the_package(predictor, track), abs=1e-5)  # they differ by 1e-2


def test_what_cannot_be_scored_has_no_number(predictor: Any) -> None:
    broken = music(SAMPLE_RATE, 2)
    broken[0, 100] = np.nan
    for track in (broken, np.zeros((2, 0), np.float32)):
        assert all(math.isnan(value) for value in score_aesthetics(predictor, track).values())


def test_a_batch_does_not_grow_with_a_track(predictor: Any) -> None:
    watched = Watched(predictor)
    score_aesthetics(watched, music(115 * SAMPLE_RATE, 0), 5)
    assert [len(batch) for batch in watched.batches] == [5, 5, 2]


def test_axes_keep_their_names(predictor: Any) -> None:
    # The scale of each axis sets its mean apart: CE 5, CU 6, PC 7, PQ 8.
    row = score_aesthetics(predictor, tone(2.0, 440.0))
    assert {axis: round(value) for axis, value in row.items()} == {"CE": 5, "CU": 6, "PC": 7, "PQ": 8}


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


def altered(found: dict[str, Any], part: str, **changes: Any) -> dict[str, Any]:
    """With other entries in one part; None takes one out."""
    held = {name: value for name, value in (found[part] | changes).items() if value is not None}
    return {**found, part: held}


NORM = "model.wavlm_model.layer_norm.weight"


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("state_dict", {NORM: None}, "not a usable checkpoint .*Missing key"),
        ("state_dict", {NORM: torch.zeros(7)}, "not a usable checkpoint .*size mismatch for wavlm_model"),
        ("state_dict", {NORM: torch.full((16,), torch.nan)}, "holds values that are no numbers"),
        ("model_cfg", {"proj_ln": None}, r"not a checkpoint of .* \(model_cfg lacks proj_ln\)"),
        ("target_transform", {"CU": None}, r"\(target_transform lacks CU\)"),
        ("target_transform", {"CU": {}}, "not a usable checkpoint .*mean"),
    ],
)
def test_another_layout_is_refused(
    written: tuple[Path, Any], tmp_path: Path, part: str, changes: dict[str, Any], told: str
) -> None:
    found = torch.load(written[0], weights_only=True)
    torch.save(altered(found, part, **changes), tmp_path / "other.pt")
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


def test_hub_out_of_reach_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingPartError, match=r"could not be reached .*evaluation\.audiobox_path"):
        load_audiobox(None)
    with pytest.raises(MissingPartError, match="could not be reached"):
        audiobox_identity(None)


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


def test_what_the_hub_does_not_hold_does_not_stay_random(
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


def test_a_damaged_file_of_the_cache_is_told(
    written: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written[1].save_pretrained(tmp_path / "shown")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders[AUDIOBOX_REPOSITORY] = tmp_path / "shown"
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


def test_every_readable_file_is_scored_once(lineup: Lineup, checkpoint: Path, tmp_path: Path) -> None:
    asked: list[Any] = []

    def each(items: Iterable[Any]) -> Iterable[Any]:
        asked.extend(items)
        return asked

    found = measure_audiobox(evaluation(lineup, tmp_path / "kept", checkpoint, each))
    assert tuple(found.by_track) == AUDIOBOX
    assert {name: set(rows) for name, rows in found.by_track["PQ"].items()} == {
        "real": {"a", "b"},
        "twice": {"a"},
    }
    audio = [read_wav(tmp_path / "true" / f"{name}.wav") for name in "ab"]
    expected = [score_aesthetics(load_audiobox(checkpoint), track) for track in audio]
    for axis, systems in found.by_track.items():
        assert systems["twice"]["a"] == systems["real"]["a"]
        assert [systems["real"][n] for n in "ab"] == pytest.approx([row[axis] for row in expected], abs=1e-4)
    assert len(asked) == 3  # the two true ones and the text
    assert found.weights == {"audiobox": audiobox_identity(checkpoint)}


def test_what_was_scored_is_not_scored_again_but_by_other_weights(
    lineup: Lineup, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluation(Lineup(lineup.tracks, lineup.systems[:1]), tmp_path / "kept", checkpoint)
    first = measure_audiobox(whole)
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "load_audiobox", None)
        assert measure_audiobox(whole) == first
    kept = len(list((tmp_path / "kept" / "audiobox").iterdir()))
    monkeypatch.setattr(pretrained, "audiobox_identity", lambda _: "others")
    measure_audiobox(whole)
    assert len(list((tmp_path / "kept" / "audiobox").iterdir())) == 2 * kept


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
