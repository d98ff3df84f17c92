import re
from pathlib import Path

import fsspec
import numpy as np
import pytest

from samuel.errors import DatasetError
from samuel.popdb import verify as verification
from samuel.popdb.dataset import open_popdb, read_manifest
from samuel.popdb.published import import_published
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.damage import (
    CASES,
    change_index,
    change_tables,
    outcomes,
    relist,
    restate,
    set_row,
    settings_of,
    shard_names,
    written,
)
from tests.popdb.latents import encoded_song, flip_bit, small_settings
from tests.popdb.published_arrays import write_published

# Parts of lines that are worked out elsewhere, or said by a library.
OPEN = {
    "STATS": r"dataset\.json: stats: (vocal|accompaniment) (mean|std) FIGURES",
    "FIGURES": r"of \d+ channels: channel \d+ has \S+, the training pairs \S+",
    "LIBRARY": r".+",
    "NUMBER": r"[\d,]+",
    "DIGEST": r"[0-9a-f]{64}",
    "ZEROS": r"0{64}",
    "INDEX": r"index-[0-9a-f]{16}\.parquet",
    "SONGS": r"songs-[0-9a-f]{16}\.parquet",
    "SHARD": r"shards/[0-9a-f]{16}\.safetensors",
    "ROOT": r"\S+/popdb",
}


def pattern_of(line: str) -> str:
    pattern = re.escape(line)
    for word, meaning in OPEN.items():
        pattern = re.sub(rf"\b{word}\b", lambda _, meaning=meaning: meaning, pattern)
    return pattern


@pytest.mark.parametrize("name", CASES)
def test_every_damage_is_named(tmp_path: Path, name: str) -> None:
    popdb, case = written(tmp_path), CASES[name]
    case.act(popdb)
    found, patterns = verify(popdb.root), [pattern_of(line) for line in case.lines]
    unsaid = [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in found)]
    unmeant = [line for line in found if not any(re.fullmatch(pattern, line) for pattern in patterns)]
    assert (unsaid, unmeant) == ([], [])


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    (tmp_path / "outside.safetensors").write_bytes((popdb.root / shard_names(popdb)[1]).read_bytes())
    for shard in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        change_index(set_row(4, shard=shard))(popdb)
        assert "index: in a shard that dataset.json does not name: c-000" in verify(popdb.root)
        with pytest.raises(DatasetError, match=r"dataset\.json does not name .*outside"):
            open_popdb(popdb.root)


def test_what_a_dataset_says_is_shown_in_one_harmless_line(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    rows = popdb.songs().to_pylist()
    change_tables(popdb, songs=[*rows[:3], rows[3] | {"song_id": "\x1b]0;owned\a\nsound\u202e", "pairs": 3}])
    said = verify(popdb.root)
    assert "songs: pairs other than the index has: \\x1b]0;owned\\x07\\nsound\\u202e" in said
    assert all(line.isprintable() for line in said)


def test_many_pairs_make_one_line(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"validation_share": 0.0})
    popdb = write_popdb([encoded_song(tmp_path, "a", 20)], settings)
    (popdb.root / popdb.index[0]["shard"]).unlink()
    names = ", ".join(f"a-{i:03d}" for i in range(8))
    assert verify(popdb.root) == [f"{popdb.index[0]['shard']}: missing, with {names} and 12 more"]


def test_silence_gives_nothing_away(tmp_path: Path) -> None:
    """Pairs of digital silence are alike in all songs."""
    popdb = written(tmp_path)
    CASES["a pair on both sides"].act(popdb)
    assert len(verify(popdb.root)) == 1
    change_index(set_row(3, mix_peak=0.0))(open_popdb(popdb.root))
    assert verify(popdb.root) == []


def test_the_statistics_are_compared_with_the_pairs_themselves(tmp_path: Path) -> None:
    """To what a plain mean over the training pairs is, within the tolerance, and no further."""
    popdb = written(tmp_path)
    vocal, accompaniment = (latents.double().numpy() for latents in popdb.read(popdb.pairs("train")))
    stats = {
        stream: {"mean": latents.mean(axis=(0, 2)).tolist(), "std": latents.std(axis=(0, 2)).tolist()}
        for stream, latents in (("vocal", vocal), ("accompaniment", accompaniment))
    }
    restate(stats=stats)(popdb)
    assert verify(popdb.root) == []
    stats["vocal"]["std"][5] *= 1.0002
    restate(stats=stats)(popdb)
    (line,) = verify(popdb.root)
    assert re.fullmatch(r"dataset\.json: stats: vocal std of 1 channels: channel 5 has .*", line)


def test_a_channel_that_never_changes_is_sound(tmp_path: Path) -> None:
    vocal, accompaniment = write_published(tmp_path, 3)
    latents = np.load(vocal)
    latents[:, 7] = 0.5
    np.save(vocal, latents)
    popdb = import_published(vocal, accompaniment, tmp_path / "popdb")
    assert (popdb.stats["vocal"]["mean"][7], popdb.stats["vocal"]["std"][7]) == (0.5, 1.0)
    assert verify(popdb.root) == []


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_any_file_raises(tmp_path: Path, seed: int) -> None:
    """Random bytes at random places, with digests that fit, so that the checks behind them are reached."""
    random = np.random.default_rng(seed)
    for turn in range(12):
        popdb = written(tmp_path / str(turn))
        path = sorted(path for path in popdb.root.rglob("[!.]*.*"))[random.integers(6)]
        content, name = bytearray(path.read_bytes()), str(path.relative_to(popdb.root))
        for place in random.integers(len(content), size=3):
            content[place] = random.integers(256)
        if name in (popdb.info["index"], popdb.info["songs"]):
            relist(popdb, name[:5], bytes(content))
        else:
            path.write_bytes(content)
        verify(popdb.root)


def test_a_dataset_behind_a_url_is_read_where_it_lies(tmp_path: Path) -> None:
    popdb, url, cache = written(tmp_path), "memory://verified/popdb", tmp_path / "cache"
    memory = fsspec.filesystem("memory")
    memory.put(f"{popdb.root}/", "/verified/popdb/", recursive=True)
    assert verify(url, cache) == []
    open_popdb(url, cache).read(popdb.index)  # now it is kept
    shard = shard_names(popdb)[0]
    flip_bit(popdb.root / shard)
    memory.pipe_file(f"/verified/popdb/{shard}", (popdb.root / shard).read_bytes())
    assert verify(url, cache) == verify(popdb.root) != []
    settings = settings_of(tmp_path)
    at_url = settings.popdb.model_copy(update={"path": url, "cache": cache})
    write_popdb(outcomes(tmp_path), settings.model_copy(update={"popdb": at_url}))
    assert verify(url, cache) == []
    memory.rm("/verified", recursive=True)


def test_a_dataset_that_is_replaced_meanwhile_is_checked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popdb = written(tmp_path)
    infos = [popdb.info]
    write_popdb(outcomes(tmp_path)[1:], settings_of(tmp_path))
    monkeypatch.setattr(
        verification, "read_manifest", lambda folder: infos.pop() if infos else read_manifest(folder)
    )
    assert verify(popdb.root) == []
