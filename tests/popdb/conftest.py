"""One song, or a few, through acquisition by real yt-dlp."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import sha256
from samuel.audio import read_wav
from samuel.config import Settings, parse
from samuel.errors import SongError
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.reading import read_json
from tests.popdb.site import AT_ONCE, LocalSite, serving, yt_dlp_plugin


class Workplace:
    """A folder, and songs acquired into its data folder, of a site that is searched without pauses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = self.with_()

    def with_(self, **download: Any) -> Settings:
        """The settings with some of `download` changed."""
        return parse({"data": self.root / "data", "download": {**AT_ONCE, **download}})

    def outcomes(self, *songs: Song | str, **download: Any) -> list[Outcome]:
        """What becomes of songs, given as such or by title."""
        listed = [Song(f"{title!r}", title) if isinstance(title, str) else title for title in songs]
        return acquire_songs(listed, Parts(self.with_(**download)))

    def search(self, title: str = "Any song", **download: Any) -> dict[str, Any]:
        """The record of one song that is searched for; SongError where it fails."""
        return self._record(Song("0" * 20, title), **download)

    def read(self, path: Path, **download: Any) -> dict[str, Any]:
        """The record of one file at hand; SongError where it fails."""
        return self._record(Song("0" * 20, path.stem, url=path.as_uri()), **download)

    def failure(self, make: Callable[[], Any]) -> SongError:
        """The error of `make`, after which no audio may be there, whole or not."""
        with pytest.raises(SongError) as caught:
            make()
        assert self.names() == []
        return caught.value

    def names(self) -> list[str]:
        """What lies in data/raw beside locks, the pace and what is remembered of failures."""
        raw = self.root / "data" / "raw"
        paths = [path for path in raw.glob("*") if path.suffix != ".json"]
        kept = [path for path in paths if path.name not in (".locks", ".rate_limit")]
        return sorted(path.name for folder in kept for path in folder.iterdir())

    def entries(self) -> list[Path]:
        """The folders of audio under a final name, each of which must be whole, with nothing else in it."""
        folders = [path.parent for path in self.root.glob("data/raw/[!.]*/*")]
        for folder in set(folders):
            audio = folder / "audio.wav"
            listed = {"bytes": audio.stat().st_size, "sha256": sha256(audio)}
            assert read_json(folder / "entry.json")["files"] == {"audio.wav": listed}
            assert sorted(path.name for path in folder.iterdir()) == ["audio.wav", "entry.json"]
            assert read_wav(audio).size > 0
        return sorted(set(folders))

    def audio(self) -> Path:
        """The one audio file that was acquired."""
        [path] = self.root.glob("data/raw/*/audio.wav")
        return path

    def _record(self, song: Song, **download: Any) -> dict[str, Any]:
        [outcome] = self.outcomes(song, **download)
        if outcome.ok:
            return outcome.record
        Status(outcome.status)
        raise SongError(outcome.status, outcome.message)


@pytest.fixture(scope="session")
def _plugin() -> Iterator[None]:
    with yt_dlp_plugin():
        yield


@pytest.fixture
def site(_plugin: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSite]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as local:
        monkeypatch.setenv("SAMUEL_TEST_SITE", local.base)
        yield local


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    root = tmp_path / "100 % of #1 songs?"
    root.mkdir()
    return Workplace(root)
