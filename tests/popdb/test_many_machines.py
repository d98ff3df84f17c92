"""The stages on machines that share no disk: each has a data folder of its own, and there is one store."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from samuel.artifacts import MANIFEST
from samuel.config import Settings
from samuel.popdb import stages
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import digests, small_settings
from tests.popdb.noise import Share, run, songs_of
from tests.stores import KINDS, a_store, names

Result = TypeVar("Result")


class Machines:
    """Working folders: in each, the relative path in the same settings is that of another machine."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, store: str | None) -> None:
        self.root, self._monkeypatch, self.store = root, monkeypatch, store

    def settings(self, **sections: Any) -> Settings:
        small = small_settings(self.root, **sections)
        return small.model_copy(update={"data": Path("data"), "store": self.store})

    def on(self, name: str, work: Callable[[], Result]) -> Result:
        """What `work` returns on that machine."""
        (self.root / name).mkdir(exist_ok=True)
        self._monkeypatch.chdir(self.root / name)
        return work()

    def files(self, name: str) -> set[str]:
        """What kinds of files lie on a machine, by stage; the dataset aside."""
        paths = [path for stage in STAGES for path in (self.root / name / "data" / stage).glob("[!.]*/*.*")]
        return {f"{path.parent.parent.name}/{path.name}" for path in paths if path.name != MANIFEST}


STAGES = ("searches", "raw", "stems", "latents")


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> Share:
    separator = Share(0.3)
    monkeypatch.setattr(Parts, "separator", separator)
    return separator


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch, (tmp_path / "store").as_uri())


@pytest.fixture(params=KINDS)
def over_any_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machines]:
    with a_store(request.param, tmp_path, monkeypatch) as url:
        yield Machines(tmp_path, monkeypatch, url)


def dataset_without_store(machines: Machines, songs: list[Song]) -> dict[str, str]:
    alone = machines.settings().model_copy(update={"store": None})
    machines.on("alone", lambda: write_popdb(run(songs, alone), alone))
    return digests(machines.root / "alone" / "data" / "popdb")


def test_what_one_machine_did_the_other_does_not_do_again(over_any_store: Machines, third: Share) -> None:
    machines, songs, settings = over_any_store, songs_of(over_any_store.root), over_any_store.settings()
    expected = dataset_without_store(machines, songs)
    third.songs = 0
    first = machines.on("a", lambda: run(songs, settings))
    second = machines.on("b", lambda: run(songs, settings))
    assert all(outcome.ok and outcome.did_work for outcome in first)
    assert all(outcome.ok and not outcome.did_work for outcome in second)
    assert third.songs == 3
    assert machines.files("b") == set()
    machines.on("b", lambda: write_popdb(second, settings))
    assert machines.files("b") == {"latents/latents.safetensors"}
    assert digests(machines.root / "b" / "data" / "popdb") == expected


def test_removed_audio_comes_back_on_another_machine(machines: Machines, third: Share) -> None:
    songs = songs_of(machines.root)
    gone: dict[str, Any] = {"audio": "remove", "stems": "remove"}
    settings = machines.settings(retention=gone)
    machines.on("a", lambda: run(songs, settings))
    url = machines.store or ""
    assert not [name for name in names(url) if name.endswith((".wav", ".flac"))]
    assert all(not outcome.did_work for outcome in machines.on("b", lambda: run(songs, settings)))
    other = machines.settings(retention=gone, popdb={"chunk_frames": 72})
    assert machines.on("c", lambda: stages.reclaim_audio(Parts(other))) == 3
    # The machine that released it has its own word for it, which no longer counts.
    assert all(outcome.ok and outcome.did_work for outcome in machines.on("a", lambda: run(songs, other)))
    assert third.songs == 6
    assert machines.on("b", lambda: stages.reclaim_audio(Parts(other))) == 0
