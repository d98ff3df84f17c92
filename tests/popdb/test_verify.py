import dataclasses
import json
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from samuel.artifacts import sha256
from samuel.popdb import verify as examination
from samuel.popdb.dataset import open_popdb, state_of
from samuel.popdb.verify import verify
from samuel.popdb.writer import repair, write_popdb
from tests.popdb.damage import (
    change,
    outcomes,
    reindex,
    seal,
    set_row,
    settings_of,
    shard_names,
    written,
)
from tests.popdb.damage_cases import CASES
from tests.popdb.latents import encoded_song, small_settings

# Parts of lines that are worked out elsewhere, or said by a library.
OPEN = {
    "STATS": r"stats\.json: (vocal|accompaniment) (mean|std) of \d+ channels: channel \d+ has \S+, the "
    r"training pairs \S+",
    "LIBRARY": r".+",
    "FIGURES": r"channel 0 has \S+, the training pairs \S+",
    "CONTENT": r"dataset\.json: content_sha256 is not that of the pairs of index\.parquet",
    "HEADER": r"\d+",
    "SHORT": r"\d+",
    "WHOLE": r"\d+",
    "CARD": r"\d+",
    "DIGEST": r"[0-9a-f]{64}",
    "NAME": r"dataset\.json: files\.\S*outside\.safetensors\S*: String should match pattern .*",
    "ROOT": r"\S+/popdb",
}


def pattern_of(line: str, shards: list[str]) -> str:
    pattern = re.escape(line.replace("{0}", shards[0]).replace("{1}", shards[1]))
    for word, meaning in OPEN.items():
        pattern = re.sub(rf"\b{word}\b", lambda _, meaning=meaning: meaning, pattern)
    return pattern


@pytest.mark.parametrize("name", CASES)
def test_every_damage_is_named(tmp_path: Path, name: str) -> None:
    popdb, case = written(tmp_path), CASES[name]
    assert verify(popdb.root) == []
    case.act(popdb)
    found = verify(popdb.root)
    patterns = [pattern_of(line, shard_names(popdb)) for line in case.lines]
    unsaid = [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in found)]
    unmeant = [line for line in found if not any(re.fullmatch(pattern, line) for pattern in patterns)]
    assert (unsaid, unmeant) == ([], [])


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    inside = (popdb.root / shard_names(popdb)[1]).read_bytes()
    (tmp_path / "outside.safetensors").write_bytes(inside)
    name = "outside.safetensors"
    for shard in (f"../{name}", str(tmp_path / name), f"shards/../../{name}"):
        reindex(set_row(4, shard=shard))(popdb)
        assert "index.parquet: no name of a shard: c-000" in verify(popdb.root)


def test_a_shard_larger_than_any_is_not_read(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    with (popdb.root / shard_names(popdb)[1]).open("r+b") as file:
        file.truncate(2**40)
    assert verify(popdb.root) == [f"{shard_names(popdb)[1]}: {2**40} bytes are no shard"]


def test_what_a_dataset_says_is_shown_in_one_harmless_line(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    change(popdb, "index", "a-000", codec="\x1b[2J\nsound\u202e")
    change(popdb, "songs", "d", song_id="\x1b]0;owned\a", pairs=3)
    said = verify(popdb.root)
    assert "songs.parquet: pairs other than index.parquet has: \\x1b]0;owned\\x07" in said
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
    change(open_popdb(popdb.root), "index", "b-000", mix_peak=0.0)
    assert verify(popdb.root) == []


def test_the_statistics_are_compared_with_the_pairs_themselves(tmp_path: Path) -> None:
    """To what a plain mean over the training pairs is, within the tolerance, and no further."""
    popdb = written(tmp_path)
    vocal, accompaniment = (latents.double().numpy() for latents in popdb.read(popdb.pairs("train")))
    stats = {
        stream: {"mean": latents.mean(axis=(0, 2)).tolist(), "std": latents.std(axis=(0, 2)).tolist()}
        for stream, latents in (("vocal", vocal), ("accompaniment", accompaniment))
    }
    (popdb.root / "stats.json").write_text(json.dumps(stats))
    seal(popdb.root)
    assert verify(popdb.root) == []
    stats["vocal"]["std"][5] *= 1.0002
    (popdb.root / "stats.json").write_text(json.dumps(stats))
    seal(popdb.root)
    assert re.fullmatch(
        r"stats\.json: vocal std of 1 channels: channel 5 has .*", "".join(verify(popdb.root))
    )


def test_a_channel_that_never_changes_is_sound(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"path": tmp_path / "still", "validation_share": 0.0})
    song = encoded_song(tmp_path, "s", 3)
    assert song.artifact is not None
    latents = load_file(song.artifact.path("latents.safetensors"))
    latents["vocal"][:, 7] = 0.5
    path = song.artifact.path("latents.safetensors")
    save_file(latents, path)
    entry = dataclasses.replace(song.artifact, sha256={path.name: sha256(path)})
    popdb = write_popdb([dataclasses.replace(song, artifact=entry)], settings)
    assert popdb.stats["vocal"]["std"][7] == 1.0
    assert verify(popdb.root) == []


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_any_file_raises(tmp_path: Path, seed: int) -> None:
    """Random bytes at random places, with digests that fit, so that the checks behind them are reached."""
    random = np.random.default_rng(seed)
    popdb = written(tmp_path)
    files = [path for path in sorted(popdb.root.rglob("*.*")) if path.is_file() and path.stat().st_size]
    whole = {path: path.read_bytes() for path in files}
    for _ in range(12):
        path = files[random.integers(len(files))]
        content = bytearray(whole[path])
        for place in random.integers(len(content), size=3):
            content[place] = random.integers(256)
        path.write_bytes(content)
        if path.name != "dataset.json":
            seal(popdb.root)
        verify(popdb.root)
        for each, was in whole.items():
            each.write_bytes(was)
    assert verify(popdb.root) == []


def test_a_dataset_behind_a_url_is_read_where_it_lies(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    url = "memory://verified/popdb"
    memory = fsspec.filesystem("memory")
    memory.put(f"{popdb.root}/", "/verified/popdb/", recursive=True)
    cache = tmp_path / "cache"
    assert verify(url, cache) == []
    shard = shard_names(popdb)[0]
    content = bytearray(memory.cat_file(f"/verified/popdb/{shard}"))
    content[-1] ^= 1
    memory.pipe_file(f"/verified/popdb/{shard}", bytes(content))
    faults = ("its bytes are not those dataset.json names", "not the latents that were written: b-000")
    found = [f"{shard}: {fault}" for fault in faults]
    assert verify(url, cache) == found
    repaired = repair(url, cache)
    assert (repaired.faults, repaired.dropped) == (found, ["b-000"])
    assert verify(url, cache) == []
    memory.rm("/verified", recursive=True)


def test_a_dataset_that_is_replaced_meanwhile_is_checked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popdb = written(tmp_path)
    states = [state_of(popdb.state.folder)]
    write_popdb(outcomes(tmp_path)[1:], settings_of(tmp_path))
    monkeypatch.setattr(examination, "state_of", lambda folder: states.pop() if states else state_of(folder))
    assert verify(popdb.root) == []
