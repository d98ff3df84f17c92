import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.baselines.pretrained import MusicGen, StableAudioOpen
from samuel.config import MusicGenConfig, StableAudioOpenConfig
from samuel.errors import MissingPartError

CPU = torch.device("cpu")
CONFIG = MusicGenConfig()


@pytest.fixture
def copied(weights: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights["musicgen"], tmp_path / "model"))


def test_what_is_neither_folder_nor_repository_is_named() -> None:
    for name in ("absent", "./absent/model", "a/b/c"):
        with pytest.raises(MissingPartError, match="no such folder, and no hub repository"):
            MusicGen(name, CONFIG, CPU)


def test_another_kind_of_model_is_refused_before_its_weights_are_read(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    for content, words in (
        (b"\xff", "cannot be read as the configuration"),
        (b'{"model_type": "musicgen"}', "model_type is 'musicgen', not 'musicgen_melody'"),
    ):
        (copied / "config.json").write_bytes(content)
        with pytest.raises(MissingPartError, match=rf"config\.json: .*{words}"):
            MusicGen(str(copied), CONFIG, CPU)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickled", "holds no safetensors; pickled weights"),
        ("halved", r"not usable \(.*fetch it again"),
        ("without a tensor", r"1 tensors are missing \(audio_enc_to_dec_proj\.weight\)"),
    ],
)
def test_weights_that_are_not_whole_are_refused(how: str, words: str, copied: Path) -> None:
    file = copied / "model.safetensors"
    if how == "pickled":
        file.rename(copied / "pytorch_model.bin")
    elif how == "halved":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:  # transformers would draw it at random, and say so in a log at most
        state = load_file(file)
        del state["audio_enc_to_dec_proj.weight"]
        save_file(state, file, {"format": "pt"})
    with pytest.raises(MissingPartError, match=rf"{copied}: .*{words}"):
        MusicGen(str(copied), CONFIG, CPU)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchsde", None)
    with pytest.raises(MissingPartError, match=r"torchsde: pip install 'samuel\[baselines\]'"):
        StableAudioOpen("absent", StableAudioOpenConfig(), CPU)
