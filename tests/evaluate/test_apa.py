"""APA against its formula, by random CLAP weights, where the package `audio-metrics` is installed."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import SAMPLE_RATE
from samuel.errors import InputError
from samuel.evaluate.pretrained import CLAP_CHECKPOINT, adherence, load_clap
from samuel.hub import quietly

PITCHES = (110.0, 220.0, 440.0, 880.0)


def tones(pitch: float, seconds: float) -> NDArray[np.float32]:
    """(2, S)."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hiss = 0.01 * np.random.default_rng(int(pitch)).standard_normal(len(time))
    return np.tile((0.3 * np.sin(2 * np.pi * pitch * time) + hiss).astype(np.float32), (2, 1))


def pairs_of(accompaniments: tuple[float, ...], seconds: float = 10.5) -> list[Any]:
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

    def of_kind(self, wanted: int) -> NDArray[np.float64]:
        return np.array([row for kind, row in self.seen if kind == wanted])


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
    recorder, state = Recorder(embedder), random.getstate()
    sets = {"near": pairs_of(NEAR), "strangers": pairs_of(STRANGERS)}
    found = adherence(recorder, pairs_of(TRUE), sets, seed=3)
    assert random.getstate() == state
    assert capfd.readouterr() == ("", "")
    true, *candidates = np.split(recorder.of_kind(1), 3)
    dealt = recorder.of_kind(2)
    assert len(true) == len(dealt) == 8
    between = distance(true, dealt)
    for name, made in zip(sets, candidates, strict=True):
        assert made.shape == (8, 512)
        expected = 0.5 + (distance(made, dealt) - distance(made, true)) / (2 * between)
        assert found[name] == pytest.approx(np.clip(expected, 0, 1), abs=1e-3)
    assert found["near"] > found["strangers"]
    assert adherence(embedder, pairs_of(TRUE), sets, seed=3) == pytest.approx(found, abs=1e-3)
    broken = pairs_of(TRUE)
    broken[1][0][0, 5] = np.nan
    for pairs, message in (([], "0 pairs with 0 windows"), (broken, "NaN or infinite")):
        with pytest.raises(InputError, match=message):
            adherence(embedder, pairs_of(TRUE), {"x": pairs})
