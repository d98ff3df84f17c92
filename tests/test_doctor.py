import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from samuel.config import Settings, parse
from samuel.doctor import Finding, dataset_parts, examine, on_hub, require, table, training_parts
from samuel.errors import MissingPartError


class Hub(BaseHTTPRequestHandler):
    """Answers as the model hub does: an open file, a gated one, and nothing else."""

    def do_HEAD(self) -> None:
        if "open-model" in self.path:
            self.send_response(200)
            self.send_header("ETag", '"0123456789"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "10")
        elif "gated-model" in self.path:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the handler's)
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("repository", "state", "words"),
    [
        ("someone/open-model", "reachable", "fetched when first used"),
        ("someone/gated-model", "gated", "accept the terms at https://huggingface.co/someone/gated-model"),
        ("someone/no-model", "missing", "set codec.path to local weights"),
    ],
)
def test_the_hub_is_asked_for_the_file_itself(hub: None, repository: str, state: str, words: str) -> None:
    finding = on_hub("weights", repository, ["model.safetensors"], "codec.path")
    assert finding.state == state
    assert words in f"{finding.detail} {finding.remedy}"
    assert finding.usable == (state == "reachable")


def test_a_hub_out_of_reach_is_missing_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    finding = on_hub("weights", "someone/open-model", ["model.safetensors"], "codec.path")
    assert finding.state == "missing"
    assert "cannot be reached" in finding.detail


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
