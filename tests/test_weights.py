"""Weights from the hub: fetched, refused, damaged."""

from collections.abc import Callable, Iterator
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.errors import MissingPartError, OperatorError, SamuelError
from samuel.hub import cached, fetch, hub_error, quietly, refusal, require_finite, verify_blob, weights_sha256
from tests.hub import LocalHub, local_hub, point_at
from tests.weights import ONE_HOT, write_demucs, write_demucs_hub, write_stable_audio

CPU = torch.device("cpu")
REPOSITORY = "someone/vae"
NAME = "model.safetensors"
CONTENT = bytes(range(256)) * 40
TOKEN = "hf_" + "s3cret" * 5
REMEDY = "or set codec.path"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / NAME).write_bytes(CONTENT)
    (tmp_path / "vae" / "model_config.json").write_text("{}")
    with local_hub(monkeypatch, tmp_path / "cache") as running:
        running.folders[REPOSITORY] = tmp_path / "vae"
        yield running


def said(repository: str = REPOSITORY, name: str = NAME) -> str:
    """The words of a refusal, which a look at the hub gives too."""
    with pytest.raises(MissingPartError) as caught:
        fetch(repository, name, REMEDY)
    message = str(caught.value)
    looked = refusal(repository, [name])
    assert looked is not None
    assert message == f"{repository}: {looked.reason}; {looked.remedy}, {REMEDY}"
    assert looked.gated == ("accept the terms" in message)
    return message


def test_a_file_is_fetched_once(hub: LocalHub) -> None:
    assert not cached(REPOSITORY, [NAME])
    assert refusal(REPOSITORY, [NAME, "model_config.json"]) is None
    assert not cached(REPOSITORY, [NAME])
    path = fetch(REPOSITORY, NAME, REMEDY)
    assert path.read_bytes() == CONTENT
    assert cached(REPOSITORY, [NAME])
    assert not cached(REPOSITORY, [NAME, "model_config.json"])
    assert fetch(REPOSITORY, NAME, REMEDY) == path
    assert [method for method, _ in hub.requests].count("GET") == 1


def test_what_is_cached_needs_no_hub(hub: LocalHub) -> None:
    path = fetch(REPOSITORY, NAME, REMEDY)
    hub.down = True
    assert fetch(REPOSITORY, NAME, REMEDY) == path


def test_gated_without_a_login(hub: LocalHub) -> None:
    hub.gated.add(REPOSITORY)
    message = said()
    assert f"gated; accept the terms at https://huggingface.co/{REPOSITORY}, then log in with" in message
    assert "`hf auth login` or set HF_TOKEN" in message


def test_gated_opens_for_a_token_that_accepted(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(REPOSITORY)
    hub.known.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    message = said()
    assert "accept the terms" in message
    assert TOKEN not in message
    hub.accepted.add(TOKEN)
    assert refusal(REPOSITORY, [NAME]) is None
    assert fetch(REPOSITORY, NAME, REMEDY).read_bytes() == CONTENT


def test_a_login_that_the_hub_does_not_know(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    message = said()
    assert "refuses your login (HTTP 401); log in again with `hf auth login` or correct HF_TOKEN" in message
    assert TOKEN not in message


def test_a_login_that_cannot_be_sent(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secrét")
    assert "your login is no token of the hub; log in again" in said()
    assert hub.requests == []


@pytest.mark.parametrize("token", ["", TOKEN])
def test_no_such_repository(hub: LocalHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.known.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", token)
    assert "no such repository to you (https://huggingface.co/no/vae); correct its name" in said("no/vae")


def test_no_such_file(hub: LocalHub) -> None:
    assert f"holds no config.yaml (https://huggingface.co/{REPOSITORY})" in said(name="deep/config.yaml")


def test_no_name_of_a_repository(hub: LocalHub) -> None:
    assert "no name of a hub repository" in said("/data/no/such/folder")
    assert not cached("/data/no/such/folder", [NAME])
    assert hub.requests == []


def test_a_hub_that_is_down(hub: LocalHub) -> None:
    hub.down = True
    assert "could not be reached (it answered HTTP 503); try again later" in said()


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, "http://127.0.0.1:1", tmp_path)
    assert "could not be reached (ConnectError); connect to the internet" in said()


def test_a_server_that_is_no_hub(hub: LocalHub) -> None:
    hub.commit = ""
    with pytest.raises(MissingPartError, match=r"could not be reached \(FileMetadataError\)"):
        fetch(REPOSITORY, NAME, REMEDY)


def test_offline_mode(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert (
        "not in the local cache, and the hub could not be reached (offline mode); unset HF_HUB_OFF" in said()
    )
    assert hub.requests == []


def test_a_download_that_breaks_off_leaves_nothing(hub: LocalHub) -> None:
    hub.short = True
    with pytest.raises(MissingPartError, match="the download broke off; fetch it again, or set") as caught:
        fetch(REPOSITORY, NAME, REMEDY)
    assert hub.address not in str(caught.value)
    assert not cached(REPOSITORY, [NAME])
    hub.short = False
    verify_blob(fetch(REPOSITORY, NAME, REMEDY))


def test_a_full_disk_stops_for_the_operator() -> None:
    error = hub_error(OSError(ENOSPC, "No space left on device"), REPOSITORY, REMEDY)
    assert isinstance(error, OperatorError)
    assert "HF_HOME" in str(error)


def test_what_the_server_wrote_is_not_repeated(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Ignore this; https://evil.example/"
    monkeypatch.setattr(LocalHub, "refusal", lambda *_: (403, "", words))
    assert "evil" not in said()
    assert "refuses your login (HTTP 403)" in said()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def test_a_damaged_blob_is_named_and_fetched_anew(hub: LocalHub) -> None:
    path = fetch(REPOSITORY, NAME, REMEDY)
    verify_blob(path)
    damage(path)
    with pytest.raises(MissingPartError, match="damaged") as caught:
        verify_blob(path)
    blob = path.parent.parent.parent / "blobs" / sha256(CONTENT).hexdigest()
    assert f"delete {blob} and fetch it again" in str(caught.value)
    assert str(path) in str(caught.value)
    blob.unlink()
    again = fetch(REPOSITORY, NAME, REMEDY)
    verify_blob(again)
    assert again.read_bytes() == CONTENT


def test_files_without_a_sha256_for_a_name_pass(hub: LocalHub, tmp_path: Path) -> None:
    small = fetch(REPOSITORY, "model_config.json", REMEDY)
    small.write_text("other")
    verify_blob(small)
    elsewhere = tmp_path / ("0" * 64)
    elsewhere.write_bytes(b"other")
    verify_blob(elsewhere)
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    verify_blob(link)


def test_a_blob_in_the_shared_store_goes_by_its_first_name(tmp_path: Path) -> None:
    store, blobs, snapshot = (tmp_path / name for name in ("store", "blobs", "snapshots"))
    for folder in (store, blobs, snapshot):
        folder.mkdir()
    (store / ("e" * 64)).write_bytes(CONTENT)
    (blobs / sha256(CONTENT).hexdigest()).symlink_to(store / ("e" * 64))
    (snapshot / NAME).symlink_to(f"../blobs/{sha256(CONTENT).hexdigest()}")
    verify_blob(snapshot / NAME)
    damage(store / ("e" * 64))
    with pytest.raises(MissingPartError, match=f"delete {store / ('e' * 64)} and fetch"):
        verify_blob(snapshot / NAME)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    state = {"good": torch.ones(3), "count": torch.arange(3), "bad": torch.ones(2, 3, dtype=torch.float16)}
    require_finite(state, "model.safetensors")
    state["bad"][1, 2] = value
    with pytest.raises(
        MissingPartError, match=r"^model\.safetensors: 'bad' holds values that are no numbers"
    ):
        require_finite(state, "model.safetensors")


@pytest.mark.parametrize("make", [ValueError, RuntimeError, KeyError])
def test_other_faults_are_named_by_type_and_first_line(make: Callable[[str], Exception]) -> None:
    error: SamuelError = hub_error(make("one"), REPOSITORY, REMEDY)
    assert f"not usable ({make.__name__}: " in str(error)
    assert "one" in str(error)


def test_an_autoencoder_comes_from_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    write_stable_audio(tmp_path / "vae")
    local, remote = (
        load_codec(CodecConfig(name="stable-audio-open", path=path), CPU)
        for path in (str(tmp_path / "vae"), REPOSITORY)
    )
    assert remote.info == local.info
    hub.down = True
    assert load_codec(CodecConfig(name="stable-audio-open", path=REPOSITORY), CPU).info == local.info


@pytest.mark.parametrize(
    ("name", "repository", "weights"),
    [("htdemucs", "someone/HTDemucs", None), ("htdemucs_ft", "someone/HTDemucs-ft", ONE_HOT)],
)
def test_demucs_reads_a_bag_from_the_hub_as_from_a_folder(
    hub: LocalHub, tmp_path: Path, name: str, repository: str, weights: list[list[float]] | None
) -> None:
    with quietly():
        from demucs.pretrained import get_model

    write_demucs(tmp_path / "local", name, weights)
    write_demucs_hub(tmp_path / "remote", name, weights, segment=1.5)
    hub.folders[repository] = tmp_path / "remote"
    remote: Any = get_model(f"hf://someone/{name}")
    local: Any = get_model(name, tmp_path / "local")
    assert remote.weights == local.weights == (weights or [[1.0] * 4])
    assert remote.max_allowed_segment == 1.5
    assert weights_sha256(remote.state_dict()) == weights_sha256(local.state_dict())
    assert len({weights_sha256(model.state_dict()) for model in remote.models}) == len(weights or [[]])
