import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from samuel.config import Settings, parse
from samuel.doctor import Finding, dataset_parts, examine, on_hub, require, table, training_parts
from samuel.errors import MissingPartError
from samuel.hub import fetch
from tests.hub import LocalHub, local_hub, point_at


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with local_hub(monkeypatch, tmp_path / "cache") as running:
        running.folders |= dict.fromkeys(["someone/open-model", "someone/gated-model"], tmp_path)
        running.gated.add("someone/gated-model")
        yield running


@pytest.mark.parametrize(
    ("repository", "state", "words"),
    [
        ("someone/open-model", "reachable", "someone/open-model, fetched when first used"),
        (
            "someone/gated-model",
            "gated",
            "accept the terms at https://huggingface.co/someone/gated-model, then log in with `hf auth login`"
            " or set HF_TOKEN, or set codec.path to local weights",
        ),
        ("someone/no-model", "missing", "or set codec.path to local weights"),
        ("/no/such/folder", "missing", "no such folder"),
    ],
)
def test_the_hub_is_asked_for_the_file_itself(hub: LocalHub, repository: str, state: str, words: str) -> None:
    finding = on_hub("weights", repository, ["model.safetensors"], "codec.path")
    assert finding.state == state
    assert words in f"{finding.detail}; {finding.remedy}"
    assert finding.usable == (state == "reachable")


def test_what_is_cached_is_present_though_the_hub_is_down(hub: LocalHub) -> None:
    fetch("someone/open-model", "model.safetensors", "")
    hub.down = True
    assert on_hub("weights", "someone/open-model", ["model.safetensors"], "codec.path").state == "present"
    finding = on_hub("weights", "someone/open-model", ["model.safetensors", "config.json"], "codec.path")
    assert finding.state == "missing"
    assert "HTTP 503" in finding.detail


def test_a_hub_out_of_reach_is_missing_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, "http://127.0.0.1:1", tmp_path)
    finding = on_hub("weights", "someone/open-model", ["model.safetensors"], "codec.path")
    assert finding.state == "missing"
    assert "could not be reached" in finding.detail
    assert finding.remedy == "connect to the internet, or set codec.path to local weights"


def test_local_weights_need_no_hub(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model_config.json").write_text(json.dumps({}))
    (tmp_path / "htdemucs.yaml").write_text("models: []")
    settings = parse(
        {
            "codec": {"name": "stable-audio-open", "path": str(tmp_path)},
            "separator": {"name": "demucs", "repo": tmp_path},
            "evaluation": {
                "scorers": ["signal", "audiobox"],
                "audiobox_path": tmp_path / "model.safetensors",
            },
        }
    )
    names = {
        finding.name: finding.state
        for finding in require(settings, dataset_parts(settings) | training_parts(settings))
    }
    assert names["stable-audio-open"] == names["demucs (htdemucs)"] == names["audiobox"] == "present"


def test_everything_missing_is_named_at_once_with_its_remedy(tmp_path: Path) -> None:
    settings = parse(
        {
            "device": "cuda",
            "codec": {"name": "stable-audio-open", "path": str(tmp_path)},
            "separator": {"name": "demucs", "repo": tmp_path},
        }
    )
    with pytest.raises(MissingPartError) as caught:
        require(settings, dataset_parts(settings) | training_parts(settings))
    message = str(caught.value)
    assert "correct separator.repo" in message
    assert "correct codec.path" in message


def test_the_embedded_default_needs_nothing_from_outside() -> None:
    assert all(
        finding.usable
        for finding in require(Settings(), dataset_parts(Settings()) | training_parts(Settings()))
    )


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("samuel.doctor.FREE_GIB_WANTED", 10**9)
    with pytest.raises(MissingPartError, match=r"disk: missing, .* GiB free"):
        require(parse({"data": tmp_path / "not" / "there"}), set())


def test_the_table_has_a_row_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samuel.doctor.WEIGHTS", {"x": lambda _: Finding("x", "gated", "there", "do this")})
    text = table(examine(Settings()))
    for name in ("Python", "torch", "GPU", "ffmpeg", "JavaScript", "disk"):
        assert name in text
    assert text.splitlines()[-1].endswith("→ do this")


def test_each_flow_asks_only_for_its_own_parts(tmp_path: Path) -> None:
    settings = parse(
        {
            "separator": {"name": "demucs", "repo": tmp_path},
            "evaluation": {"scorers": ["audiobox"], "audiobox_path": tmp_path / "absent.pt"},
        }
    )
    with pytest.raises(MissingPartError, match=r"correct separator\.repo") as caught:
        require(settings, dataset_parts(settings))
    assert "audiobox" not in str(caught.value)
    with pytest.raises(MissingPartError, match=r"correct evaluation\.audiobox_path") as caught:
        require(settings, training_parts(settings))
    assert "demucs" not in str(caught.value)
