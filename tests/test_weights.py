"""Weights from the hub: fetched, refused, damaged."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from samuel.errors import MissingPartError
from samuel.hub import cached, fetch, read_checkpoint, refusal, verify_blob
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


def test_a_hub_that_cannot_be_asked(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.down = True
    assert "could not be reached (it answered HTTP 503); try again later" in said()
    hub.down, hub.commit = False, ""
    with pytest.raises(MissingPartError, match=r"could not be reached \(FileMetadataError\)"):
        fetch(REPOSITORY, NAME, REMEDY)  # some other server
    point_at(monkeypatch, "http://127.0.0.1:1", tmp_path)
    assert "not in the local cache, and the hub could not be reached (ConnectError)" in said()


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


def test_a_damaged_blob_is_named_and_fetched_anew(hub: LocalHub) -> None:
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


def test_a_checkpoint_is_no_larger_than_its_file(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(10**6)}, plain)
    assert read_checkpoint(plain)["a"].shape == (10**6,)
    with ZipFile(plain) as old, ZipFile(packed, "w", ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.load(packed)["a"].shape == (10**6,)  # from a thousandth of the bytes
    with pytest.raises(ValueError, match="compressed"):
        read_checkpoint(packed)
