from collections.abc import Iterator

import pytest

from tests.popdb.site import LocalSite, serving, yt_dlp_plugin


@pytest.fixture(scope="module")
def _plugin() -> Iterator[None]:
    with yt_dlp_plugin():
        yield


@pytest.fixture
def site(_plugin: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSite]:
    """An empty site that yt-dlp searches and downloads from."""
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as local:
        monkeypatch.setenv("SAMUEL_TEST_SITE", local.base)
        yield local
