import os
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.codecs import load_codec
from samuel.codecs.mel import HOP
from samuel.config import Settings, parse
from samuel.errors import InputError, SettingsError
from samuel.popdb import true_stems
from samuel.popdb.dataset import Popdb
from samuel.popdb.status import Outcome
from samuel.popdb.true_stems import encode_true_stems, write_true_pairs
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from samuel.synthetic.song import compose
from tests.popdb.latents import digests, encoded_song, small_settings

FRAMES = 512
SONGS = 2
SEED = 5


def settings_in(root: Path) -> Settings:
    return small_settings(root, popdb={"chunk_frames": FRAMES}, songs={"seed": SEED})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Popdb, list[Outcome]]:
    """A dataset that two processes made, of which one song was there."""
    settings, told = settings_in(tmp_path_factory.mktemp("true")), []
    encode_true_stems(settings, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 2)
        popdb = write_true_pairs(settings, SONGS, told.append)
    return settings, popdb, told


def test_a_pair_is_the_encoded_true_stems(made: tuple[Settings, Popdb, list[Outcome]]) -> None:
    settings, popdb, told = made
    assert verify(str(popdb.root), None) == []
    assert (popdb.info["source"], popdb.info["separator"]) == ("synthetic", "true-stems/1")
    codec = load_codec(settings.codec, torch.device("cpu"))
    for index, outcome in enumerate(told):
        song = compose(SEED, index)
        rows = [row for row in popdb.index if row["song_id"] == outcome.song.song_id]
        chunks = song.vocals.shape[1] // (FRAMES * HOP)
        assert sorted(row["chunk"] for row in rows) == list(range(chunks))
        assert {row["title"] for row in rows} == {song.title}
        stems = (torch.from_numpy(stem)[None] for stem in (song.vocals, song.accompaniment))
        whole = [codec.encode(stem) for stem in stems]
        for row in rows:
            place = slice(row["chunk"] * FRAMES, (row["chunk"] + 1) * FRAMES)
            for half, latents in zip(popdb.read([row]), whole, strict=True):
                torch.testing.assert_close(half.float(), latents[..., place], atol=5e-3, rtol=1e-3)


def test_broken_off_in_one_process_it_goes_on_to_the_same_bytes(
    made: tuple[Settings, Popdb, list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        write_true_pairs(settings, 5, interrupt)
    assert len(list(tmp_path.glob("data/latents/*/entry.json"))) < 5  # those that waited were not begun
    assert digests(write_true_pairs(settings, SONGS, lambda _: None).root) == digests(made[1].root)


def interrupt(_: Outcome) -> None:
    raise KeyboardInterrupt


def test_what_is_there_is_not_made_again(
    made: tuple[Settings, Popdb, list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _, told = made

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(true_stems, "compose", never)
    again = [encode_true_stems(settings, index) for index in range(SONGS)]
    assert [outcome.record for outcome in again] == [outcome.record for outcome in told]
    assert [outcome.song for outcome in again] == [outcome.song for outcome in told]
    assert [outcome.did_work for outcome in again] == [False] * SONGS
    assert [outcome.did_work for outcome in told] == [True, False]


@pytest.mark.parametrize(
    "sections", [{"songs": {"source": "folder", "path": "songs"}}, {"codec": {"name": "stable-audio-open"}}]
)
def test_other_sources_and_codecs_are_refused(sections: dict[str, Any], tmp_path: Path) -> None:
    settings = parse({"data": tmp_path, **sections})
    with pytest.raises(SettingsError, match=r"songs\.source = 'synthetic'.*codec\.name = 'mel'"):
        write_true_pairs(settings, 1, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_dataset_of_separated_songs_is_not_replaced(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    popdb = write_popdb([encoded_song(tmp_path, name) for name in "ab"], settings)
    before = digests(popdb.root)
    with pytest.raises(InputError, match=r"'repet/1', is there; set popdb\.path"):
        write_true_pairs(settings, 1, lambda _: None)
    assert digests(popdb.root) == before
    assert not list((tmp_path / "data").glob("latents/[!.]*"))
