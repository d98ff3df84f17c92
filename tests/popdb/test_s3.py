"""A dataset in an S3 bucket: the real s3fs against a local server, where s3fs and moto are installed."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.errors import OperatorError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.folder import open_folder
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings, songs

pytest.importorskip("s3fs")
server: Any = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket."""
    local = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    local.start()
    _, port = local.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    import fsspec

    name = f"popdb-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}"
    local.stop()


def test_a_dataset_in_a_bucket_is_one_on_this_machine(tmp_path: Path, bucket: str) -> None:
    url = f"{bucket}/data/popdb"
    remote = small_settings(tmp_path, popdb={"path": url, "cache": tmp_path / "cache", "pairs_per_shard": 3})
    assert write_popdb(songs(tmp_path), remote).made
    assert not write_popdb(songs(tmp_path), remote).made
    changed = [encoded_song(tmp_path, name) for name in "acd"]
    rewritten = write_popdb(changed, remote)
    local = write_popdb(changed, small_settings(tmp_path, popdb={"pairs_per_shard": 3}))
    assert rewritten.info == local.info
    read = open_popdb(url, tmp_path / "other")
    assert torch.equal(read.read(read.index)[0], local.read(local.index)[0])
    assert verify(url, tmp_path / "other") == []
    with (
        open_folder(url, tmp_path / "cache").locked(),
        pytest.raises(OperatorError, match="being written by"),
    ):
        write_popdb(songs(tmp_path), remote)
