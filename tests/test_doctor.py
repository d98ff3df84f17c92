from collections.abc import Iterator
from pathlib import Path

import pytest

from samuel.cli import main
from samuel.codecs.stable_audio_open import FILES
from samuel.config import Settings, parse
from samuel.doctor import Finding, dataset_parts, require, training_parts, weights
from samuel.errors import MissingPartError
from samuel.hub import fetch
from tests.hub import LocalHub, local_hub, point_at

FILE = ["model.safetensors"]


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
    finding = weights("weights", repository, FILE, "codec.path")
    assert finding.state == state
    assert words in f"{finding.detail}; {finding.remedy}"
    assert finding.usable == (state == "reachable")


def test_what_is_cached_is_present_though_the_hub_is_down(hub: LocalHub) -> None:
    fetch("someone/open-model", "model.safetensors", "")
    hub.down = True
    assert weights("weights", "someone/open-model", FILE, "codec.path").state == "present"
    finding = weights("weights", "someone/open-model", [*FILE, "config.json"], "codec.path")
    assert (finding.state, "HTTP 503" in finding.detail) == ("missing", True)


def test_local_weights_need_no_hub_and_each_flow_asks_for_its_own(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    settings = parse({
        "device": "cuda",
        "codec": {"name": "stable-audio-open", "path": str(tmp_path)},
        "separator": {"name": "demucs", "repo": tmp_path},
        "evaluation": {"scorers": ["signal", "audiobox"], "audiobox_path": weights}
    })  # fmt: skip
    both = dataset_parts(settings), training_parts(settings)
    told = []
    for parts in both:
        with pytest.raises(MissingPartError) as caught:
            require(settings, parts)
        told.append(str(caught.value))
    remedies = ("device = 'auto'", "correct codec.path", "separator.repo", "evaluation.audiobox_path")
    assert [[remedy in words for remedy in remedies] for words in told] == [
        [True, True, True, False], [True, True, False, True]
    ]  # fmt: skip
    (tmp_path / "vae").mkdir()
    for file in (weights, *(tmp_path / name for name in FILES), tmp_path / "htdemucs.yaml"):
        file.write_bytes(b"")
    here = settings.model_copy(update={"device": "cpu"})
    states = {finding.name: finding.state for finding in require(here, both[0] | both[1])}
    assert states["stable-audio-open"] == states["demucs (htdemucs)"] == states["audiobox"] == "present"


def test_the_embedded_default_needs_nothing_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_at(monkeypatch, "http://127.0.0.1:1", tmp_path)
    parts = dataset_parts(Settings()) | training_parts(Settings())
    assert all(finding.usable for finding in require(Settings(), parts))
    monkeypatch.setattr("samuel.doctor.FREE_GIB_WANTED", 10**9)
    with pytest.raises(MissingPartError, match=r"disk: missing, .* GiB free"):
        require(parse({"data": tmp_path / "not" / "there"}), set())


def test_the_command_prints_a_row_for_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("samuel.doctor.WEIGHTS", {"x": lambda _: Finding("x", "gated", "there", "do this")})
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("Python", "torch", "GPU", "ffmpeg", "disk"))
    assert text.splitlines()[-1].endswith("→ do this")


def test_what_only_a_song_list_needs_is_asked_of_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("a-secret-of-the-browser")
    settings = parse({"download": {"cookies": str(cookies)}, "data": str(tmp_path)})
    monkeypatch.setattr("samuel.doctor.FREE_GIB_WANTED", 0)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingPartError) as caught:
        require(settings, {"csv"})
    javascript, complaint = str(caught.value).splitlines()
    assert javascript == "JavaScript: missing, no deno; install yt-dlp[default,deno] again"
    assert complaint.startswith(f"cookies: missing, download.cookies {cookies}: not a cookies file")
    assert "a-secret" not in complaint
    require(settings, {"synthetic"})
