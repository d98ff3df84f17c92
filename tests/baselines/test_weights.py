import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from samuel.baselines.musicgen import FILES, MusicGenConfig, load_musicgen
from samuel.baselines.render import parse_section, track_seed
from samuel.baselines.stable_audio_open import StableAudioOpenConfig, load_stable_audio_open
from samuel.baselines.weights import hushed, weights_of
from samuel.errors import MissingPartError, SettingsError
from tests.hub import Handler, LocalHub, local_hub

CPU = torch.device("cpu")
CONFIG = MusicGenConfig()
REPOSITORY = "facebook/musicgen-melody-large"


@pytest.fixture
def copied(musicgen_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(musicgen_folder, tmp_path / "model"))


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
    system = load_musicgen(REPOSITORY, CONFIG, CPU)
    assert system.model == REPOSITORY
    assert system.settings == load_musicgen(str(copied), CONFIG, CPU).settings
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
        load_musicgen(REPOSITORY, CONFIG, CPU)
    assert str(refused.value).startswith(REPOSITORY)
    assert "--model a folder" in str(refused.value)


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingPartError, match="not in the local cache"):
        load_musicgen(REPOSITORY, CONFIG, CPU)


@pytest.mark.parametrize("name", ["absent", "./absent/model", "/absent", "a/b/c"])
def test_what_is_neither_folder_nor_repository_is_named(name: str) -> None:
    with pytest.raises(MissingPartError, match="no such folder, and no hub repository"):
        load_musicgen(name, CONFIG, CPU)


def test_another_kind_of_model_is_refused_before_its_weights_are_read(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "musicgen"}))
    (copied / "model.safetensors").unlink()
    with pytest.raises(MissingPartError, match=r"model_type is 'musicgen', not 'musicgen_melody'"):
        load_musicgen(str(copied), CONFIG, CPU)


@pytest.mark.parametrize("content", [None, "", "[]", '{"a": 1}', "\udcff"])
def test_a_folder_without_a_configuration_is_named(content: str | None, copied: Path) -> None:
    (copied / "config.json").unlink()
    if content is not None:
        (copied / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(MissingPartError, match=r"config\.json: cannot be read as the configuration"):
        load_musicgen(str(copied), CONFIG, CPU)


def test_pickled_weights_are_never_read(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(MissingPartError, match="holds no safetensors; pickled weights"):
        load_musicgen(str(copied), CONFIG, CPU)


def test_half_a_file_is_named(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(MissingPartError, match=r"model: not usable \(.*fetch it again"):
        load_musicgen(str(copied), CONFIG, CPU)


def test_a_tensor_that_is_missing_is_named(copied: Path) -> None:
    """transformers would draw it at random, and say so in a log at most."""
    from safetensors.torch import load_file, save_file

    state = load_file(copied / "model.safetensors")
    del state["audio_enc_to_dec_proj.weight"]
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(MissingPartError, match=r"1 tensors are missing \(audio_enc_to_dec_proj\.weight\)"):
        load_musicgen(str(copied), CONFIG, CPU)


def test_tensors_of_another_size_are_named(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["decoder"]["ffn_dim"] = 24
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingPartError, match=str(copied)):
        load_musicgen(str(copied), CONFIG, CPU)


def test_tensors_to_spare_do_not_matter(copied: Path) -> None:
    """Older releases saved the table of positions, which newer ones compute."""
    from safetensors.torch import load_file, save_file

    state = load_file(copied / "model.safetensors")
    state["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 16)
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    assert load_musicgen(str(copied), CONFIG, CPU).parameters > 0


@pytest.mark.parametrize("package", ["transformers", "torchsde"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPartError, match=rf"{package}: pip install 'samuel\[baselines\]'"):
        load_stable_audio_open("absent", StableAudioOpenConfig(), CPU)


def test_a_digest_stands_for_weights_and_settings_alone(copied: Path) -> None:
    before = weights_of(copied, FILES)
    (copied / "README.md").write_text("words")
    assert weights_of(copied, FILES) == before
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert weights_of(copied, FILES) != before


def test_hushing_ends_with_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with hushed():
        print("noise")  # noqa: T201
        warnings.warn("noise", stacklevel=1)
        logging.get_logger("transformers.noise").error("noise")
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"top_k": 0}, r"setting top_k: .*given: 0"),
        ({"prompt": ""}, "setting prompt"),
        ({"temperature": float("nan")}, "setting temperature"),
        ({"steps": 3}, "setting steps"),
        ({"seed": -1}, "setting seed"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_section(MusicGenConfig, values)


def test_each_track_has_its_own_seed() -> None:
    seeds = {track_seed(seed, name) for seed in range(20) for name in ("a", "b", "song 1", "歌")}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert track_seed(3, "a") == track_seed(3, "a")


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "fp32"), ("cuda", "fp16"), ("mps", "fp32")])
def test_precision_by_itself_follows_the_device(device: str, wanted: str) -> None:
    assert CONFIG.precision_on(torch.device(device)) == wanted
    assert MusicGenConfig(precision="bf16").precision_on(torch.device(device)) == "bf16"
