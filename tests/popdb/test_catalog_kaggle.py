import gzip
import os
import random
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from samuel.config import SongsConfig
from samuel.errors import MissingPartError
from samuel.popdb.songs import KAGGLE_FILE, fetch_kaggle_list, list_songs
from tests.popdb.kaggle import (
    AUTHORIZATION,
    KEY,
    SERVICE,
    STORE,
    LocalKaggle,
    environment,
    serving,
    tarred,
    zipped,
)

ROOT = Path(__file__).parents[2]
LIST = b"song_name,song_popularity,song_duration_ms\nSong,1,60000\n"
NOTEBOOK_TOKENS = ("KAGGLE_USER_SECRETS_TOKEN", "KAGGLE_DATA_PROXY_TOKEN")
BUNDLE = {KAGGLE_FILE: LIST, "licence.txt": b"of the dataset"}


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalKaggle]:
    with serving() as site:
        for name in ("KAGGLE_KERNEL_RUN_TYPE", *NOTEBOOK_TOKENS):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment(site.proxy, tmp_path).items():
            monkeypatch.setenv(name, value)
        site.archive = zipped(BUNDLE)
        yield site


def failure() -> MissingPartError:
    """What fetching fails with: it names the remedies, and shows no secret."""
    with pytest.raises(MissingPartError) as caught:
        fetch_kaggle_list()
    for part in ("kaggle.json", "KAGGLE_KEY", "songs.path", "yasserh/song-popularity-dataset"):
        assert part in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (KEY, AUTHORIZATION, AUTHORIZATION.removeprefix("Basic ")):
        assert secret not in shown
    return caught.value


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_list_is_fetched_once(kaggle: LocalKaggle, tmp_path: Path) -> None:
    config = SongsConfig(source="csv")
    listed = list_songs(config, tmp_path / "data")
    assert [song.title for song in listed.songs] == ["Song"]
    assert kaggle.requests == [f"{SERVICE}/GetDataset", f"{SERVICE}/DownloadDataset", STORE]
    kaggle.requests.clear()
    assert list_songs(config, tmp_path / "data") == listed
    assert kaggle.requests == [f"{SERVICE}/GetDataset"]  # which version there is, nothing else


def test_a_new_version_is_fetched(kaggle: LocalKaggle) -> None:
    assert fetch_kaggle_list().read_bytes() == LIST
    kaggle.version, kaggle.archive = 2, zipped({KAGGLE_FILE: b"another list"})
    assert fetch_kaggle_list().read_bytes() == b"another list"


def test_nothing_is_printed(kaggle: LocalKaggle, tmp_path: Path) -> None:
    code = "from samuel.popdb.songs import fetch_kaggle_list; fetch_kaggle_list()"
    variables = {**os.environ, **environment(kaggle.proxy, tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert STORE in kaggle.requests


def test_wrong_credentials(kaggle: LocalKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "f" * 32)
    assert "Kaggle refuses the credentials (HTTP 401)" in str(failure())
    assert kaggle.requests == [f"{SERVICE}/GetDataset"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "Kaggle refuses the credentials (HTTP 403)"),
        (404, "Kaggle answers with an error (HTTP 404)"),
        (500, "Kaggle answers with an error (HTTP 500)"),
    ],
)
def test_refusal(status: int, reason: str, kaggle: LocalKaggle) -> None:
    kaggle.status = status
    assert reason in str(failure())
    assert kaggle.requests == [f"{SERVICE}/GetDataset"]
    kaggle.status = 200
    assert fetch_kaggle_list().read_bytes() == LIST


def test_nobody_answers(kaggle: LocalKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        pass
    monkeypatch.setenv("http_proxy", gone.proxy)
    assert "Kaggle cannot be reached" in str(failure())
    assert kaggle.requests == []


def test_a_download_that_breaks_off_is_resumed(kaggle: LocalKaggle) -> None:
    noise = random.Random(0).randbytes(3 * 2**20)  # noqa: S311
    kaggle.archive = zipped({KAGGLE_FILE: LIST, "noise": noise})
    kaggle.sent = 2**21 + 5
    assert "the connection broke off" in str(failure())
    kaggle.sent = None
    path = fetch_kaggle_list()
    assert kaggle.requests[-1] == f"{STORE} bytes={2**21}-"
    assert (path.read_bytes(), path.with_name("noise").read_bytes()) == (LIST, noise)


WHOLE, DEFLATED = zipped(BUNDLE), zipped(BUNDLE, zipfile.ZIP_DEFLATED)
CONTENT = 30 + len(KAGGLE_FILE)  # where the first file begins, after its header
NOISE = random.Random(0).randbytes(50_000)  # noqa: S311


@pytest.mark.parametrize(
    ("archive", "complaint"),
    [
        (b"<html>sign in</html>", "ValueError"),
        (WHOLE[: len(WHOLE) // 2], "ValueError"),
        (WHOLE.replace(b"Song,1", b"Sony,1"), "BadZipFile"),
        (DEFLATED[:CONTENT] + b"\xff" + DEFLATED[CONTENT + 1 :], "error"),
        (gzip.compress(tarred({KAGGLE_FILE: NOISE}))[:40_000], "EOFError"),
    ],
)
def test_a_damaged_archive(archive: bytes, complaint: str, kaggle: LocalKaggle) -> None:
    kaggle.archive = archive
    assert f"kagglehub cannot use what it found ({complaint})" in str(failure())


def test_a_download_that_is_not_what_was_sent(kaggle: LocalKaggle) -> None:
    kaggle.checksum = "AAAAAAAAAAAAAAAAAAAAAA=="
    assert "kagglehub cannot use what it found (DataCorruptionError)" in str(failure())
    kaggle.checksum = None
    assert fetch_kaggle_list().read_bytes() == LIST


@pytest.mark.parametrize(("token", "complaint"), [("", "BackendError"), (None, "CredentialError")])
def test_a_notebook_of_kaggle_itself(
    token: str | None, complaint: str, kaggle: LocalKaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("KAGGLE_DATA_PROXY_URL", kaggle.proxy)
    if token is not None:
        for name in NOTEBOOK_TOKENS:
            monkeypatch.setenv(name, token)
    assert f"kagglehub cannot use what it found ({complaint})" in str(failure())


def test_an_archive_without_the_list(kaggle: LocalKaggle) -> None:
    kaggle.archive = zipped({"licence.txt": b"of the dataset"})
    assert f"the Kaggle dataset holds no {KAGGLE_FILE}" in str(failure())


def test_an_archive_cannot_write_elsewhere(kaggle: LocalKaggle, tmp_path: Path) -> None:
    hostile = {KAGGLE_FILE: LIST, "../../x": b"x", str(tmp_path / "y"): b"y"}
    kaggle.archive = zipped(hostile)
    assert fetch_kaggle_list().read_bytes() == LIST
    inside = "cache/datasets/yasserh/song-popularity-dataset"
    assert {name for name in files(tmp_path) if not name.startswith(f"{inside}/versions/1/")} == {
        f"{inside}/1.complete"
    }
    kaggle.version, kaggle.archive = 2, tarred(hostile)
    before = files(tmp_path)
    assert "kagglehub cannot use what it found (OutsideDestinationError)" in str(failure())
    assert files(tmp_path) - before == {f"{inside}/versions/2/{KAGGLE_FILE}", f"{inside}/2.archive"}


def test_credentials_that_cannot_be_read(
    kaggle: LocalKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_KEY")
    path = tmp_path / "config" / "kaggle.json"
    path.parent.mkdir()
    path.write_text(f'{{"username": "someone", "key": "{KEY}"')
    assert f"the Kaggle credentials cannot be read (Invalid Kaggle credentials file at {path})" in str(
        failure()
    )
    assert kaggle.requests == []
