"""Stores to test with: in memory, in a folder, and in a bucket where s3fs and moto are installed."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samuel.artifacts import RemoteFolder

KINDS = ("memory", "file", "s3")


@contextmanager
def a_store(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty store."""
    if kind == "memory":
        yield f"memory://{uuid.uuid4().hex}"
        return
    if kind == "file":
        yield (folder / "store").as_uri()
        return
    s3fs = pytest.importorskip("s3fs")
    local = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    local.start()
    _, port = local.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()  # those of the server before
    name = f"store-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/pieces"
    local.stop()


def names(url: str) -> list[str]:
    """Of everything in a store."""
    return sorted(RemoteFolder(url, "store").sizes())


def damage(url: str, suffix: str) -> str:
    """Change a byte of the one file in a store that has the suffix; its name."""
    remote = RemoteFolder(url, "store")
    [name] = [name for name in remote.sizes() if name.endswith(suffix)]
    content = bytearray(remote.read(name) or b"")
    content[len(content) // 2] ^= 1
    remote.put(bytes(content), name)
    return name
