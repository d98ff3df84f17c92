"""AudioBox and APA against the packages' own results, and weights that are refused.

APA's package is no part of the environment of the tests. What needs it is skipped where it is not there;
random CLAP weights have laion-clap's own layout.
"""

import hashlib
import math
import sys
import types
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.config import EvaluationConfig
from samuel.errors import MissingPartError
from samuel.evaluate import pretrained
from samuel.evaluate.pretrained import (
    AUDIOBOX_REPOSITORY,
    CLAP_CHECKPOINT,
    Pairs,
    audiobox_identity,
    load_audiobox,
    load_clap,
    measure_apa,
    measure_audiobox,
    score_aesthetics,
)
from samuel.evaluate.scores import AUDIOBOX, Each, Evaluation
from samuel.evaluate.summary import NOT_CHOSEN, measure_sets
from samuel.evaluate.systems import CEILING, REAL, Lineup, System, Track
from samuel.hub import quietly
from tests.evaluate.small_audiobox import small_audiobox
from tests.evaluate.songs import write_songs
from tests.hub import local_hub
from tests.weights import Trap


def tones(pitch: float, seconds: float) -> NDArray[np.float32]:
    """(2, S)."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hiss = 0.01 * np.random.default_rng(int(pitch)).standard_normal(len(time))
    return np.tile((0.3 * np.sin(2 * np.pi * pitch * time) + hiss).astype(np.float32), (2, 1))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A checkpoint of AudioBox, and its network."""
    with small_audiobox(tmp_path_factory.mktemp("audiobox")) as found:
        yield found


@pytest.fixture(scope="module")
def predictor(written: tuple[Path, Any]) -> Any:
    return load_audiobox(written[0])


def music(samples: int, seed: int) -> Any:
    """(2, S): noise whose colour and level change, so that no window is like another."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((2, samples)).cumsum(axis=1)
    return (0.2 * np.sin(noise * np.linspace(0.01, 2.0, samples))).astype(np.float32)


def test_scores_are_those_of_the_package(predictor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole track in one call of the package's own predictor; here a batch does not grow with it."""
    forward, batches = predictor.forward, list[int]()
    monkeypatch.setattr(predictor, "forward", lambda batch: batches.append(len(batch)) or forward(batch))
    lengths = (10 * SAMPLE_RATE + 441, 25 * SAMPLE_RATE + 7, 1)
    for track in (*(music(samples, samples) for samples in lengths), np.zeros((2, SAMPLE_RATE), np.float32)):
        row = score_aesthetics(predictor, track, 2)
        assert tuple(row) == AUDIOBOX
        with quietly():
            own = forward([{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE}])[0]
        assert row == pytest.approx(own, abs=1e-5)  # they differ by 1e-2
    assert batches == [2, 2, 1, 1, 1]


def test_what_cannot_be_scored_has_no_number_and_axes_keep_their_names(predictor: Any) -> None:
    broken = music(SAMPLE_RATE, 2)
    broken[0, 100] = np.nan
    for track in (broken, np.zeros((2, 0), np.float32)):
        assert all(math.isnan(value) for value in score_aesthetics(predictor, track).values())
    # The scale of each axis sets its mean apart: CE 5, CU 6, PC 7, PQ 8.
    row = score_aesthetics(predictor, tones(440.0, 2.0))
    assert {axis: round(value) for axis, value in row.items()} == {"CE": 5, "CU": 6, "PC": 7, "PQ": 8}


NORM = "model.wavlm_model.layer_norm.weight"


def test_damaged_checkpoints_and_other_layouts_are_refused(written: tuple[Path, Any], tmp_path: Path) -> None:
    other, cut = tmp_path / "other.pt", tmp_path / "cut.pt"
    for part, name, value, told in (
        ("state_dict", NORM, None, "not a usable checkpoint .*Missing key"),
        ("state_dict", NORM, torch.zeros(7), "not a usable checkpoint .*size mismatch for wavlm_model"),
        ("state_dict", NORM, torch.full((16,), torch.nan), "holds values that are no numbers"),
        ("model_cfg", "proj_ln", None, "not a usable checkpoint .*proj_ln"),
        ("target_transform", "CU", None, "not a checkpoint of audiobox_aesthetics"),
        ("target_transform", "CU", {}, "not a usable checkpoint .*mean"),
    ):
        found = torch.load(written[0], weights_only=True)
        found[part] = {key: held for key, held in (found[part] | {name: value}).items() if held is not None}
        torch.save(found, other)
        with pytest.raises(MissingPartError, match=r"other\.pt: .*" + told):
            load_audiobox(other)
    for content in ({"state_dict": {}}, {"target_transform": ["PQ"]}, [1]):
        torch.save(content, other)
        with pytest.raises(MissingPartError, match="not a checkpoint of audiobox_aesthetics"):
            load_audiobox(other)
    cut.write_bytes(written[0].read_bytes()[:-1000])
    with pytest.raises(MissingPartError, match=r"cut\.pt: not a usable checkpoint"):
        load_audiobox(cut)
    for ask in (load_audiobox, audiobox_identity):
        with pytest.raises(MissingPartError, match=r"none\.pt: no such file"):
            ask(tmp_path / "none.pt")
    assert audiobox_identity(cut) == hashlib.sha256(cut.read_bytes()).hexdigest()


@pytest.mark.usefixtures("installed")
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "trap.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "model_cfg": Trap(sprung), "target_transform": {}}, path)
    for load in (load_audiobox, load_clap):
        with pytest.raises(MissingPartError, match=r"trap\.pt: not a usable checkpoint \(UnpicklingError"):
            load(path)
    assert not sprung.exists()


def test_weights_of_the_hub_score_as_those_of_a_file(
    written: tuple[Path, Any], predictor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    track = tones(440.0, 2.0)
    assert score_aesthetics(fetched, track) == score_aesthetics(predictor, track)


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
    """Two true accompaniments, and the same at half their level; the third of either is no audio."""
    write_songs(tmp_path, 3, 3.0)
    (tmp_path / "half").mkdir()
    for name in "ab":
        write_wav(tmp_path / "half" / f"{name}.wav", 0.5 * read_wav(tmp_path / "true" / f"{name}.wav"))
    (tmp_path / "half" / "c.wav").write_text("no audio")
    files = {whose: {n: tmp_path / whose / f"{n}.wav" for n in "abc"} for whose in ("true", "half")}
    tracks = tuple(Track(name, name, tmp_path / "vocals" / f"{name}.wav") for name in "abc")
    files["half"]["d"] = tmp_path / "absent.wav"
    return Lineup(tracks, (System(REAL, files["true"]), System("Half", files["half"])))


def evaluation(lineup: Lineup, root: Path, scorer: str, each: Each = iter, **settings: Any) -> Evaluation:
    config = EvaluationConfig.model_validate({"scorers": (scorer,), **settings})
    return Evaluation(lineup, "lineup", config, root, each=each)


def test_every_readable_file_is_scored_once_but_again_by_other_weights(
    lineup: Lineup, written: tuple[Path, Any], predictor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def each(items: Iterable[Any]) -> Iterable[Any]:
        asked.extend(items)
        return asked

    twice = Lineup(lineup.tracks, (*lineup.systems, System("twice", {"a": lineup.systems[0].files["a"]})))
    root = tmp_path / "kept"
    found = measure_audiobox(evaluation(twice, root, "audiobox", each, audiobox_path=written[0]))
    assert tuple(found.by_track) == AUDIOBOX
    named = {name: "".join(rows) for name, rows in found.by_track["PQ"].items()}
    assert named == {"real": "abc", "Half": "ab", "twice": "a"}
    expected = [score_aesthetics(predictor, read_wav(tmp_path / "true" / f"{name}.wav")) for name in "abc"]
    for axis, systems in found.by_track.items():
        assert systems["twice"]["a"] == systems["real"]["a"]
        assert [systems["real"][n] for n in "abc"] == pytest.approx([row[axis] for row in expected], abs=1e-4)
    assert len(asked) == 6  # three true ones, two others and the text
    assert found.weights == {"audiobox": audiobox_identity(written[0])}
    alone = Lineup(lineup.tracks, lineup.systems[:1])
    whole = evaluation(alone, root, "audiobox", audiobox_path=written[0])
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "load_audiobox", None)
        assert measure_audiobox(whole).by_track["PQ"]["real"] == found.by_track["PQ"]["real"]
    monkeypatch.setattr(pretrained, "audiobox_identity", lambda _: "others")
    measure_audiobox(whole)
    assert len(list((root / "audiobox").iterdir())) == 5 + 3


def test_what_is_missing_is_said(lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, missing = measure_sets("lineup", (), Evaluation(lineup, "lineup", EvaluationConfig(), tmp_path))
    assert missing["audiobox"] == missing["apa"] == NOT_CHOSEN
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    alone = Lineup(lineup.tracks, lineup.systems[1:])
    for scorer, compared, settings, reason in (
        ("audiobox", lineup, {"audiobox_path": tmp_path / "none.pt"}, "none.pt: no such file"),
        ("audiobox", lineup, {}, "could not be reached"),
        ("apa", lineup, {"apa_path": tmp_path / "none.pt"}, "none.pt: no such file"),
        ("apa", alone, {}, "no true accompaniments"),
    ):
        given = evaluation(compared, tmp_path, scorer, iter, **settings)
        found, missing = measure_sets("lineup", (scorer,), given)
        assert reason in missing[scorer]
        assert found.by_track == {}


def louder(_: object, references: Pairs, candidates: dict[str, Pairs]) -> dict[str, float]:
    """Stands for APA's package: level of the candidates over that of the true accompaniments."""

    def level(pairs: Pairs) -> float:
        return float(np.mean([np.abs(accompaniment).mean() for _, accompaniment in pairs]))

    true = level(references)
    return {name: level(pairs) / true for name, pairs in candidates.items()}


def test_every_other_system_is_measured_by_the_true_pairs(
    lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "load_clap", lambda _: "clap")
    monkeypatch.setattr(pretrained, "adherence", louder)
    found = measure_apa(evaluation(lineup, tmp_path, "apa"))
    assert found.weights == {"apa_weights": CLAP_CHECKPOINT}
    # of two songs; the third is no audio
    assert found.by_system == {"apa": {"Half": pytest.approx(0.5, abs=0.1)}}
    real, half = lineup.systems
    through = Lineup(lineup.tracks, (System(CEILING, real.files), half))
    held = measure_apa(evaluation(through, tmp_path / "through", "apa"))
    assert held.by_system["apa"].keys() == {"Half"}
    monkeypatch.setattr(pretrained, "adherence", None)
    assert measure_apa(evaluation(lineup, tmp_path, "apa")) == found


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the first look goes: a checkpoint is looked through before the package does anything."""
    if "audio_metrics" not in sys.modules:
        monkeypatch.setitem(sys.modules, "audio_metrics", types.ModuleType("audio_metrics"))


def test_a_missing_package_is_named_with_its_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "audio_metrics", None)  # which is how Python says "not to be imported"
    for path in (None, tmp_path / "clap.pt"):
        with pytest.raises(MissingPartError, match=r"audio-metrics .* uv pip install --group apa.* GPL-3"):
            load_clap(path)


@pytest.mark.usefixtures("installed")
def test_what_is_no_checkpoint_of_clap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clap, other = tmp_path / "clap.pt", "not a checkpoint of laion-clap"
    for content, message in (
        ([torch.zeros(1)], other),
        ({}, other),
        ({"state_dict": {"a": 1}}, other),
        ({"epoch": 3, "model": {"a": torch.zeros(1)}}, other),
        ({"state_dict": {"a": torch.full((2,), torch.nan)}}, "'a' holds values that are no numbers"),
    ):
        torch.save(content, clap)
        with pytest.raises(MissingPartError, match=rf"clap\.pt: .*{message}"):
            load_clap(clap)
    clap.write_bytes(b"<html>")
    with pytest.raises(MissingPartError, match=r"clap\.pt: not a usable checkpoint.*fetch it again"):
        load_clap(clap)
    for nowhere, wrong in ((tmp_path, "a folder"), (tmp_path / "none.pt", "no such file")):
        with pytest.raises(MissingPartError, match=rf"{wrong}; give a checkpoint \(evaluation\.apa_path"):
            load_clap(nowhere)
    said = r"lukewys/laion_clap: .*apa_path to a copy of it, or leave 'apa'"
    with local_hub(monkeypatch, tmp_path), pytest.raises(MissingPartError, match=said):
        load_clap(None)


@pytest.mark.usefixtures("installed")
def test_losses_that_training_noted_do_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "laion_clap", None)  # what comes next, when all has been looked through
    noted = {"best": np.float64(90.14), "loss": np.float32(0.5), "state_dict": {"a": torch.zeros(1)}}
    torch.save(noted, tmp_path / "new.pt")
    for numpys in (b"numpy.core", b"numpy._core"):  # where each version of NumPy says its numbers are from
        with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "clap.pt", "w") as old:
            for name in new.namelist():
                old.writestr(name, new.read(name).replace(b"numpy._core", numpys))
        with pytest.raises(MissingPartError, match="laion-clap is not usable"):
            load_clap(tmp_path / "clap.pt")
