"""Secrets come from the environment or from blocks, and are written nowhere."""

import logging
from pathlib import Path

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

from flows.build_popdb import build_popdb
from flows.credentials import (
    BLOCKS,
    held,
    hold,
    secret,
    take_secrets,
)
from tests.flows.test_flows import folder_settings

VALUE = "a-token-that-nobody-may-read"


@pytest.fixture
def block(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for variable in BLOCKS:
        monkeypatch.delenv(variable, raising=False)
    Secret(value=VALUE).save(BLOCKS["HF_TOKEN"], overwrite=True)  # type: ignore[arg-type]
    return VALUE


def test_a_block_is_taken_where_the_environment_has_none(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "mine")
    take_secrets()
    assert held() == {"HF_TOKEN": block, "KAGGLE_KEY": "mine"}
    monkeypatch.setenv("HF_TOKEN", "mine too")
    take_secrets()
    hold({"HF_TOKEN": "of another process", "KAGGLE_USERNAME": "me"})
    assert held() == {"HF_TOKEN": "mine too", "KAGGLE_KEY": "mine", "KAGGLE_USERNAME": "me"}
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("HF_TOKEN")


def test_no_block_is_no_error(block: str) -> None:
    assert secret("samuel-of-nobody") == ""


def test_a_secret_is_written_nowhere(
    block: str,
    songs_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")  # so that what the flow sets is undone
    monkeypatch.delenv("HF_TOKEN")
    caplog.set_level(logging.DEBUG)
    build_popdb(folder_settings(tmp_path, songs_folder))
    assert held() == {"HF_TOKEN": block}
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    assert database.is_file()
    written = [
        *tmp_path.rglob("*"),
        *PREFECT_HOME.value().rglob("*"),
        *database.parent.glob(f"{database.name}*"),
    ]
    files = [path for path in written if path.is_file()]
    told = [path for path in files if VALUE.encode() in path.read_bytes()]
    assert not told
    assert VALUE not in caplog.text
