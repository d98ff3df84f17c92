"""APA by its authors' package, on random CLAP weights in laion-clap's own layout.

The package is no part of the environment of the tests. What needs it is skipped where it is not there.
"""

import json
import random
import sys
import types
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.config import EvaluationConfig
from samuel.errors import InputError, MissingPartError
from samuel.evaluate import pretrained
from samuel.evaluate.pretrained import CLAP_CHECKPOINT, Apa, Pair, load_clap, measure_apa
from samuel.evaluate.scores import Evaluation
from samuel.evaluate.summary import measure_lineup
from samuel.evaluate.systems import CEILING, REAL, Lineup, System, Track
from samuel.hub import quietly
from tests.evaluate.songs import write_songs
from tests.hub import local_hub

PITCHES = (110.0, 220.0, 440.0, 880.0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the first look goes: a checkpoint is looked through before the package does anything."""
    if "audio_metrics" not in sys.modules:
        monkeypatch.setitem(sys.modules, "audio_metrics", types.ModuleType("audio_metrics"))


def test_a_missing_package_is_named_with_its_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "audio_metrics", None)  # which is how Python says "not to be imported"
    for path in (None, tmp_path / "clap.pt"):
        with pytest.raises(MissingPartError, match=r"audio-metrics .* uv pip install '\.\[apa\]' .* GPL-3"):
            load_clap(path)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "gone off")


@pytest.mark.usefixtures("installed")
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"a": torch.zeros(1)}, "epoch": Bomb(tmp_path / "traces")}, tmp_path / "clap.pt"
    )
    with pytest.raises(MissingPartError, match=r"clap\.pt: not a usable checkpoint \(UnpicklingError"):
        load_clap(tmp_path / "clap.pt")
    assert not (tmp_path / "traces").exists()


@pytest.mark.usefixtures("installed")
def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("installed")
def test_weights_that_the_hub_does_not_give_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = r"lukewys/laion_clap: .*apa_path to a copy of it, or leave 'apa'"
    with local_hub(monkeypatch, tmp_path), pytest.raises(MissingPartError, match=said):
        load_clap(None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("numpys", ["numpy.core", "numpy._core"])
def test_losses_that_training_noted_do_no_harm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, numpys: str
) -> None:
    monkeypatch.setitem(sys.modules, "laion_clap", None)  # what comes next, when all has been looked through
    noted = {"best": np.float64(90.14), "loss": np.float32(0.5), "state_dict": {"a": torch.zeros(1)}}
    torch.save(noted, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "clap.pt", "w") as old:
        for name in new.namelist():  # in which each version of NumPy says where its numbers are from
            old.writestr(name, new.read(name).replace(b"numpy._core", numpys.encode()))
    with pytest.raises(MissingPartError, match="laion-clap is not usable"):
        load_clap(tmp_path / "clap.pt")


def tones(pitch: float, seconds: float) -> NDArray[np.float32]:
    """(2, S)."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hiss = 0.01 * np.random.default_rng(int(pitch)).standard_normal(len(time))
    return np.tile((0.3 * np.sin(2 * np.pi * pitch * time) + hiss).astype(np.float32), (2, 1))


def pairs_of(accompaniments: tuple[float, ...], seconds: float = 10.5) -> list[Pair]:
    """The accompaniment is longer than the vocal, which is what counts."""
    pitches = zip(PITCHES, accompaniments, strict=True)
    return [(tones(pitch, seconds), tones(other, seconds + 3)) for pitch, other in pitches]


TRUE = tuple(1.5 * pitch for pitch in PITCHES)
NEAR = tuple(1.45 * pitch for pitch in PITCHES)
STRANGERS = (900.0, 2000.0, 70.0, 333.0)


def write_hub(cache: Path) -> None:
    """The tokenizers that laion-clap asks for, of a few words each, and a language model of one layer."""
    from transformers import BartConfig, BertConfig, RobertaConfig, RobertaModel

    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5}
    small = RobertaConfig(
        vocab_size=16, hidden_size=768, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    parts = {"roberta-base": small, "facebook/bart-base": BartConfig(), "bert-base-uncased": BertConfig()}
    for name, config in parts.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        config.save_pretrained(snapshot)
        (snapshot / "vocab.json").write_text(json.dumps(words))
        (snapshot / "merges.txt").write_text("#version: 0.2\n")
        (snapshot / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na")
    RobertaModel(small).save_pretrained(cache / "models--roberta-base" / "snapshots" / ("0" * 40))


def write_clap(path: Path) -> None:
    """A checkpoint as laion-clap trains it: the name of each tensor begins with `module.`."""
    import laion_clap  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    state = laion_clap.CLAP_Module(enable_fusion=False, amodel="HTSAT-base").model.state_dict()
    state = {f"module.{name}": value for name, value in state.items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]  # which later ones lack
    torch.save({"epoch": 15, "name": "CLAP", "best": np.float64(90.14), "state_dict": state}, path)


class Recorder:
    """Keeps what the network made of each window, with its kind: 1 of a pair, 2 dealt anew."""

    def __init__(self, embedder: Any) -> None:
        self.embedder, self.sr, self.seen = embedder, embedder.sr, []

    def get_device(self) -> torch.device:
        return self.embedder.get_device()

    def forward(self, data: dict[str, Any]) -> dict[str, Tensor]:
        made = self.embedder.forward(data)
        self.seen += zip(data["category"].tolist(), made["embedding"].double().numpy(), strict=True)
        return made

    def taken(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Those of pairs and those dealt anew, since the last call."""
        kinds = [[row for kind, row in self.seen if kind == wanted] for wanted in (1, 2)]
        self.seen = []
        return np.array(kinds[0]), np.array(kinds[1])


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.linalg import sqrtm

    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    with np.errstate(all="ignore"), quietly():  # it says that the matrix is singular
        root = np.trace(np.real(sqrtm(cov_a @ cov_b)))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("audio_metrics")
    folder = tmp_path_factory.mktemp("clap")
    with pytest.MonkeyPatch.context() as patch, quietly():
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        write_hub(folder / "hub")
        write_clap(folder / CLAP_CHECKPOINT)
        return load_clap(folder / CLAP_CHECKPOINT)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_the_papers_formula_of_the_embeddings(embedder: Any, capfd: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(embedder)
    state = random.getstate()
    apa = Apa(recorder, pairs_of(TRUE), seed=3)
    true, dealt = recorder.taken()
    assert len(true) == len(dealt) == 8
    between = distance(true, dealt)
    for others in (NEAR, STRANGERS):
        found = apa.score(pairs_of(others))
        candidates, none = recorder.taken()
        assert candidates.shape == (8, 512)
        assert not len(none)
        expected = 0.5 + (distance(candidates, dealt) - distance(candidates, true)) / (2 * between)
        assert found == pytest.approx(np.clip(expected, 0, 1), abs=1e-3)
    assert random.getstate() == state
    assert capfd.readouterr() == ("", "")
    Apa(recorder, pairs_of(TRUE), seed=3)
    _, again = recorder.taken()
    order, other = (np.lexsort(rows.T[:3].round(3)) for rows in (dealt, again))
    assert np.allclose(dealt[order], again[other], atol=1e-4)
    broken = pairs_of(TRUE)
    broken[1][0][0, 5] = np.nan
    for pairs, message in (([], "0 candidates with 0 windows"), (broken, "NaN or infinite")):
        with pytest.raises(InputError, match=message):
            apa.score(pairs)


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


def evaluation(lineup: Lineup, root: Path, **settings: Any) -> Evaluation:
    return Evaluation(lineup, "lineup", EvaluationConfig(scorers=("apa",), **settings), root)


def test_every_other_system_is_measured_by_the_true_pairs(
    lineup: Lineup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "load_clap", lambda _: "clap")
    monkeypatch.setattr(pretrained, "Apa", Loudness)
    found = measure_apa(evaluation(lineup, tmp_path))
    assert found.weights == {"apa_weights": CLAP_CHECKPOINT}
    # of two songs; the third is no audio
    assert found.by_system == {"apa": {"Half": pytest.approx(0.5, abs=0.1)}}
    real, half = lineup.systems
    through = Lineup(lineup.tracks, (System(CEILING, real.files), half))
    assert measure_apa(evaluation(through, tmp_path / "through")).by_system["apa"].keys() == {"Half"}
    monkeypatch.setattr(pretrained, "Apa", None)
    assert measure_apa(evaluation(lineup, tmp_path)) == found


def test_what_is_missing_is_said(lineup: Lineup, tmp_path: Path) -> None:
    for whole, reason in (
        (evaluation(Lineup(lineup.tracks, lineup.systems[1:]), tmp_path), "no true accompaniments"),
        (evaluation(lineup, tmp_path, apa_path=tmp_path / "none.pt"), "none.pt: no such file"),
    ):
        assert reason in measure_lineup(whole)[1]["apa"]
