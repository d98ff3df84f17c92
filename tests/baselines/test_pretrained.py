import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.baselines.base import precision_on
from samuel.baselines.musicgen import MusicGen
from samuel.baselines.pretrained import files_digest, quiet_libraries
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


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"down": True}, "could not be reached"),
        ({"gated": {REPOSITORY}}, "gated; accept the terms at https://huggingface.co/facebook"),
        ({"folders": {}}, "the hub shows no such repository to you"),
    ],
)
def test_a_hub_that_gives_nothing_is_named_with_a_remedy(
    state: dict[str, Any], words: str, hub: LocalHub, copied: Path
) -> None:
    hub.folders[REPOSITORY] = copied
    for name, value in state.items():
        setattr(hub, name, value)
    with pytest.raises(MissingPartError, match=words) as refused:
        MusicGen(REPOSITORY, CONFIG, CPU)
    assert str(refused.value).startswith(REPOSITORY)
    assert "--model a folder" in str(refused.value)


@pytest.mark.parametrize("name", ["absent", "./absent/model", "/absent", "a/b/c"])
def test_what_is_neither_folder_nor_repository_is_named(name: str) -> None:
    with pytest.raises(MissingPartError, match="no such folder, and no hub repository"):
        MusicGen(name, CONFIG, CPU)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read as the configuration"),
        ("[]", "cannot be read as the configuration"),
        ('{"a": 1}', "cannot be read as the configuration"),
        ("\udcff", "cannot be read as the configuration"),
        ('{"model_type": "musicgen"}', "model_type is 'musicgen', not 'musicgen_melody'"),
    ],
)
def test_another_kind_of_model_is_refused_before_its_weights_are_read(
    content: str | None, words: str, copied: Path
) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "config.json").unlink()
    if content is not None:
        (copied / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(MissingPartError, match=rf"config\.json: .*{words}"):
        MusicGen(str(copied), CONFIG, CPU)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def halved(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_a_tensor(folder: Path) -> None:
    """transformers would draw it at random, and say so in a log at most."""
    state = load_file(folder / "model.safetensors")
    del state["audio_enc_to_dec_proj.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def of_another_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["ffn_dim"] = 24
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (pickled, "holds no safetensors; pickled weights"),
        (halved, r"not usable \(.*fetch it again"),
        (without_a_tensor, r"1 tensors are missing \(audio_enc_to_dec_proj\.weight\)"),
        (of_another_size, ""),
    ],
)
def test_weights_that_are_not_whole_are_refused(damage: Any, words: str, copied: Path) -> None:
    damage(copied)
    with pytest.raises(MissingPartError, match=rf"{copied}: .*{words}"):
        MusicGen(str(copied), CONFIG, CPU)


def test_tensors_to_spare_do_not_matter(copied: Path) -> None:
    """Older releases saved the table of positions, which newer ones compute."""
    state = load_file(copied / "model.safetensors")
    state["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 16)
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    assert MusicGen(str(copied), CONFIG, CPU).parameters > 0


@pytest.mark.parametrize("package", ["transformers", "torchsde"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPartError, match=rf"{package}: pip install 'samuel\[baselines\]'"):
        StableAudioOpen("absent", StableAudioOpenConfig(), CPU)


def test_a_digest_stands_for_weights_and_settings_alone(copied: Path) -> None:
    before = files_digest(copied, MusicGen.files)
    (copied / "README.md").write_text("words")
    assert files_digest(copied, MusicGen.files) == before
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert files_digest(copied, MusicGen.files) != before


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


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "fp32"), ("cuda", "fp16"), ("mps", "fp32")])
def test_precision_by_itself_follows_the_device(device: str, wanted: str) -> None:
    assert precision_on(CONFIG, torch.device(device)) == wanted
    assert precision_on(MusicGenConfig(precision="bf16"), torch.device(device)) == "bf16"
