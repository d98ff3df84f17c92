import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.baselines.base import files_digest, precision_on, quiet_libraries
from samuel.baselines.musicgen import MusicGen
from samuel.baselines.stable_audio_open import StableAudioOpen
from samuel.config import MusicGenConfig, StableAudioOpenConfig
from samuel.errors import MissingPartError
from tests.hub import Handler, LocalHub, local_hub

CPU = torch.device("cpu")
CONFIG = MusicGenConfig()
REPOSITORY = "facebook/musicgen-melody-large"


@pytest.fixture
def copied(weights: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights["musicgen"], tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The local hub, which here also lists the files of a repository."""
    rest = Handler._answer

    def answer(self: Handler, *, with_body: bool) -> None:
        parts = self.path.partition("?")[0].split("/")  # /api/models/<owner>/<name>/revision or tree/<commit>
        folder = self.hub.folders.get("/".join(parts[3:5])) if parts[1] == "api" else None
        if folder is None:
            rest(self, with_body=with_body)
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files]
        listed: Any = {"id": "/".join(parts[3:5]), "sha": self.hub.commit}
        if parts[5] == "tree":
            sizes = [path.stat().st_size for path in files]
            rows = zip(names, sizes, strict=True)
            listed = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in rows]
        body = json.dumps(listed).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    monkeypatch.setattr(Handler, "_answer", answer)
    with local_hub(monkeypatch, tmp_path / "cache") as running:
        yield running


def test_a_repository_is_fetched_without_what_would_be_unpickled(hub: LocalHub, copied: Path) -> None:
    (copied / "state_dict.bin").write_bytes(b"never fetched")
    hub.folders[REPOSITORY] = copied
    system = MusicGen(REPOSITORY, CONFIG, CPU)
    assert system.model == REPOSITORY
    assert system.settings == MusicGen(str(copied), CONFIG, CPU).settings
    assert not any(".bin" in path for _, path in hub.requests)


def test_a_hub_that_gives_nothing_is_named_with_a_remedy(hub: LocalHub, copied: Path) -> None:
    hub.folders[REPOSITORY] = copied
    for name, value, words in (
        ("gated", {REPOSITORY}, "gated; accept the terms at https://huggingface.co/facebook"),
        ("folders", {}, "the hub shows no such repository to you"),
        ("down", True, "could not be reached"),
    ):
        before = getattr(hub, name)
        setattr(hub, name, value)
        with pytest.raises(MissingPartError, match=words) as refused:
            MusicGen(REPOSITORY, CONFIG, CPU)
        setattr(hub, name, before)
        assert str(refused.value).startswith(REPOSITORY)
        assert "--model a folder" in str(refused.value)


def test_what_is_neither_folder_nor_repository_is_named() -> None:
    for name in ("absent", "./absent/model", "a/b/c"):
        with pytest.raises(MissingPartError, match="no such folder, and no hub repository"):
            MusicGen(name, CONFIG, CPU)


def test_another_kind_of_model_is_refused_before_its_weights_are_read(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "config.json").unlink()
    unreadable = "cannot be read as the configuration"
    for content, words in (
        (None, unreadable),
        (b"[]", unreadable),
        (b"\xff", unreadable),
        (b'{"model_type": "musicgen"}', "model_type is 'musicgen', not 'musicgen_melody'"),
    ):
        if content is not None:
            (copied / "config.json").write_bytes(content)
        with pytest.raises(MissingPartError, match=rf"config\.json: .*{words}"):
            MusicGen(str(copied), CONFIG, CPU)


def damaged(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    if how == "pickled":
        file.rename(folder / "pytorch_model.bin")
    elif how == "halved":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "without a tensor":  # transformers would draw it at random, and say so in a log at most
        state = load_file(file)
        del state["audio_enc_to_dec_proj.weight"]
        save_file(state, file, {"format": "pt"})
    else:
        config = json.loads((folder / "config.json").read_text())
        config["decoder"]["ffn_dim"] = 24
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickled", "holds no safetensors; pickled weights"),
        ("halved", r"not usable \(.*fetch it again"),
        ("without a tensor", r"1 tensors are missing \(audio_enc_to_dec_proj\.weight\)"),
        ("of another size", ""),
    ],
)
def test_weights_that_are_not_whole_are_refused(how: str, words: str, copied: Path) -> None:
    damaged(copied, how)
    with pytest.raises(MissingPartError, match=rf"{copied}: .*{words}"):
        MusicGen(str(copied), CONFIG, CPU)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchsde", None)
    with pytest.raises(MissingPartError, match=r"torchsde: pip install 'samuel\[baselines\]'"):
        StableAudioOpen("absent", StableAudioOpenConfig(), CPU)


def test_a_digest_stands_for_weights_and_settings_alone(copied: Path) -> None:
    before = files_digest(copied, MusicGen.files)
    (copied / "README.md").write_text("words")
    assert files_digest(copied, MusicGen.files) == before
    state = load_file(copied / "model.safetensors")
    # Older releases saved the table of positions, which newer ones compute: tensors to spare do not matter.
    state["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 16)
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    assert MusicGen(str(copied), CONFIG, CPU).settings["weights"] != before


def test_libraries_are_quiet_within_the_block_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet_libraries():
        print("noise")  # noqa: T201
        warnings.warn("noise", stacklevel=1)
        logging.get_logger("transformers.noise").error("noise")
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""


def test_precision_by_itself_follows_the_device() -> None:
    for device, wanted in (("cpu", "fp32"), ("cuda", "fp16"), ("mps", "fp32")):
        assert precision_on(CONFIG, torch.device(device)) == wanted
        assert precision_on(MusicGenConfig(precision="bf16"), torch.device(device)) == "bf16"
