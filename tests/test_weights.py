"""Weights from the hub: fetched, refused, damaged."""

from collections.abc import Callable, Iterator
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest
import torch

from samuel.errors import MissingPartError, OperatorError
from samuel.hub import cached, fetch, hub_error, refusal, require_finite, verify_blob
from tests.hub import LocalHub, local_hub, point_at

REPOSITORY, NAME = "someone/vae", "model.safetensors"
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


def test_a_file_is_fetched_once_and_then_needs_no_hub(hub: LocalHub) -> None:
    assert not cached(REPOSITORY, [NAME])
    assert refusal(REPOSITORY, [NAME, "model_config.json"]) is None
    assert not cached(REPOSITORY, [NAME])
    path = fetch(REPOSITORY, NAME, REMEDY)
    assert path.read_bytes() == CONTENT
    assert cached(REPOSITORY, [NAME])
    assert not cached(REPOSITORY, [NAME, "model_config.json"])
    hub.down = True
    assert fetch(REPOSITORY, NAME, REMEDY) == path
    assert [method for method, _ in hub.requests].count("GET") == 1


def test_gated_opens_for_a_token_that_accepted(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(REPOSITORY)
    hub.known.add(TOKEN)
    terms = (
        f"gated; accept the terms at https://huggingface.co/{REPOSITORY}, then log in with `hf auth login`"
    )
    assert terms in said()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert terms in said()
    assert TOKEN not in said()
    hub.accepted.add(TOKEN)
    assert refusal(REPOSITORY, [NAME]) is None
    assert fetch(REPOSITORY, NAME, REMEDY).read_bytes() == CONTENT


def test_a_login_that_is_none(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secrét")
    assert "your login is no token of the hub; log in again" in said()
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "refuses your login (HTTP 401); log in again with `hf auth login` or correct HF_TOKEN" in said()
    assert TOKEN not in said()
    monkeypatch.setattr(LocalHub, "refusal", lambda *_: (403, "", "Ignore this; https://evil.example/"))
    assert "refuses your login (HTTP 403)" in said()
    assert "evil" not in said()  # what the server wrote is not repeated


@pytest.mark.parametrize("token", ["", TOKEN])
def test_what_does_not_exist(hub: LocalHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no name of a hub repository" in said("/data/no/such/folder")
    assert not cached("/data/no/such/folder", [NAME])
    assert hub.requests == []
    hub.known.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", token)
    assert "no such repository to you (https://huggingface.co/no/vae); correct its name" in said("no/vae")
    assert f"holds no config.yaml (https://huggingface.co/{REPOSITORY})" in said(name="deep/config.yaml")


def test_a_hub_that_cannot_be_asked(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.down = True
    assert "could not be reached (it answered HTTP 503); try again later" in said()
    hub.down, hub.commit = False, ""
    with pytest.raises(MissingPartError, match=r"could not be reached \(FileMetadataError\)"):
        fetch(REPOSITORY, NAME, REMEDY)  # some other server
    asked = len(hub.requests)
    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        away = "not in the local cache, and the hub could not be reached"
        assert f"{away} (offline mode); unset HF_HUB_OFFLINE" in said()
    assert len(hub.requests) == asked
    point_at(monkeypatch, "http://127.0.0.1:1", tmp_path)
    assert f"{away} (ConnectError); connect to the internet" in said()


def test_a_download_that_breaks_off_leaves_nothing(hub: LocalHub) -> None:
    hub.short = True
    with pytest.raises(MissingPartError, match="the download broke off; fetch it again, or set") as caught:
        fetch(REPOSITORY, NAME, REMEDY)
    assert hub.address not in str(caught.value)
    assert not cached(REPOSITORY, [NAME])
    hub.short = False
    verify_blob(fetch(REPOSITORY, NAME, REMEDY))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def test_a_damaged_blob_is_named_and_fetched_anew(hub: LocalHub, tmp_path: Path) -> None:
    path = fetch(REPOSITORY, NAME, REMEDY)
    verify_blob(path)
    damage(path)
    blob = path.parent.parent.parent / "blobs" / sha256(CONTENT).hexdigest()
    with pytest.raises(MissingPartError, match=f"damaged.*delete {blob} and fetch it again") as caught:
        verify_blob(path)
    assert str(path) in str(caught.value)
    blob.unlink()
    again = fetch(REPOSITORY, NAME, REMEDY)
    verify_blob(again)
    assert again.read_bytes() == CONTENT
    small = fetch(REPOSITORY, "model_config.json", REMEDY)
    small.write_text("other")
    verify_blob(small)  # without a sha256 for a name
    elsewhere = tmp_path / ("0" * 64)
    elsewhere.write_bytes(b"other")
    (tmp_path / "link").symlink_to(elsewhere)
    verify_blob(tmp_path / "link")


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


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    state = {"good": torch.ones(3), "count": torch.arange(3), "bad": torch.ones(2, 3, dtype=torch.float16)}
    require_finite(state, "model.safetensors")
    state["bad"][1, 2] = value
    with pytest.raises(
        MissingPartError, match=r"^model\.safetensors: 'bad' holds values that are no numbers"
    ):
        require_finite(state, "model.safetensors")


@pytest.mark.parametrize("make", [ValueError, KeyError])
def test_other_faults_are_named_by_type_and_first_line(make: Callable[[str], Exception]) -> None:
    error = hub_error(make("one"), REPOSITORY, REMEDY)
    assert f"not usable ({make.__name__}: " in str(error)
    full = hub_error(OSError(ENOSPC, "No space left on device"), REPOSITORY, REMEDY)
    assert isinstance(full, OperatorError)
    assert "HF_HOME" in str(full)
