from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from samuel.audio import read_wav, write_wav
from samuel.checkpoint import load_model
from samuel.codecs import load_codec
from samuel.codecs.base import Codec, decode_audio
from samuel.config import CodecConfig, SamplingConfig
from samuel.errors import CheckpointError, SettingsError
from samuel.evaluate import tracks
from samuel.evaluate.features import clipped_share
from samuel.evaluate.systems import CEILING, OURS, REAL, Lineup, System, Track
from samuel.evaluate.tracks import (
    choose_pairs,
    latents_of,
    lineup_of,
    make_track,
    require_codec,
    take_seeds,
    with_ceiling,
)
from samuel.generate import accompany_latents
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.evaluate.songs import band
from tests.models import small_model
from tests.popdb.latents import encoded_song, small_settings

CPU = torch.device("cpu")
SAMPLING = SamplingConfig(steps=2)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec(CodecConfig(), CPU)


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory, codec: Codec) -> Popdb:
    root = tmp_path_factory.mktemp("popdb")
    return write_popdb([encoded_song(root, name, mean=-3.0) for name in "abcd"], small_settings(root))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def test_takes_have_seeds_of_their_own_and_the_first_is_heard(
    popdb: Popdb, model: Path, codec: Codec, tmp_path: Path
) -> None:
    load = lambda: (load_model(model, CPU), codec)  # noqa: E731
    track = make_track(popdb.index[0], popdb, load, "weights", SAMPLING, tmp_path, takes=3)
    takes = load_file(track.path("latents.safetensors"))["takes"]
    assert takes.shape == (3, 64, 64)
    seeds = take_seeds(SAMPLING.seed, popdb.index[0], 3)
    vocal, reference = popdb.read(popdb.index[:1])
    for take, seed in zip(takes, seeds, strict=True):
        drawn = accompany_latents(vocal, load_model(model, CPU), SAMPLING.model_copy(update={"seed": seed}))
        assert torch.equal(take, drawn[0])
    assert not torch.allclose(takes[0], takes[1])
    heard, decoded = read_wav(track.path("accompaniment.wav")), codec.decode(takes[:1])[0].numpy()
    assert np.corrcoef(heard.ravel(), decoded.ravel())[0, 1] > 0.7
    assert torch.equal(latents_of(track)["reference"], reference[0].float())
    lineup, name = lineup_of([track]), track.record["pair_id"]
    assert [(found.name, found.title) for found in lineup.tracks] == [(name, track.record["title"])]
    files = {system.name: system.files[name] for system in lineup.systems}
    assert files == {CEILING: track.path("reference.wav"), OURS: track.path("accompaniment.wav")}


def test_overshoots_are_turned_down_and_not_cut_off(
    popdb: Popdb, model: Path, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks, "decode_audio", lambda codec, latents: 9 * decode_audio(codec, latents))
    load, pair = (lambda: (load_model(model, CPU), codec)), popdb.index[0]
    track = make_track(pair, popdb, load, "weights", SAMPLING, tmp_path)
    loud, heard = (
        9 * decode_audio(codec, latents_of(track)["takes"][0]),
        read_wav(track.path("accompaniment.wav")),
    )
    assert clipped_share(loud) > 0.01
    assert clipped_share(heard) < 0.1 * clipped_share(loud)
    assert 0.5 < np.abs(heard).max() <= 1.0


def test_the_chunk_with_most_singing_of_each_song_is_chosen(popdb: Popdb) -> None:
    measured = {("a", 0): 0.1, ("a", 1): 0.6, ("b", 0): 0.0, ("d", 1): 0.2}
    shares = measured | {("c", 0): None, ("c", 1): None, ("d", 0): None}
    index = [
        {"song_id": song, "pair_id": f"{song}-{chunk}", "vocal_share": share, "split": "validation"}
        for (song, chunk), share in sorted(shares.items(), key=lambda item: item[0])
    ]
    popdb = replace(popdb, table=pa.Table.from_pylist(index, schema=popdb.table.schema))
    assert [pair["pair_id"] for pair in choose_pairs(popdb, 10)] == ["a-1", "b-0", "c-0", "d-1"]
    assert len(choose_pairs(popdb, 2)) == 2


def test_another_codec_is_refused(popdb: Popdb, model: Path, codec: Codec, tmp_path: Path) -> None:
    require_codec(popdb, CodecConfig())
    with pytest.raises(SettingsError, match="holds latents of 'mel'"):  # before the training
        require_codec(popdb, CodecConfig(name="stable-audio-open"))
    other = SimpleNamespace(info=codec.info.model_copy(update={"version": "0"}))
    with pytest.raises(CheckpointError, match="the codec is mel/0"):
        make_track(popdb.index[0], popdb, lambda: (load_model(model, CPU), other), "w", SAMPLING, tmp_path)  # type: ignore[arg-type, return-value]


@pytest.fixture
def lineup(tmp_path: Path) -> Lineup:
    write_wav(tmp_path / "a.wav", band(60, 0.5, 2.0))
    (tmp_path / "b.wav").write_text("no audio")
    files = {name: tmp_path / f"{name}.wav" for name in "ab"}
    return Lineup(tuple(Track(name, name, path) for name, path in files.items()), (System(REAL, files),))


def test_the_ceiling_is_the_codecs_round_trip_and_found_again(
    lineup: Lineup, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = replace(lineup, systems=(System("Other", {}), *lineup.systems))
    raised = with_ceiling(others, codec, tmp_path / "entries")
    assert [system.name for system in raised.systems] == [REAL, CEILING, "Other"]
    ceiling = raised.system(CEILING)
    assert ceiling
    assert ceiling.files.keys() == {"a"}
    audio = band(60, 0.5, 2.0)
    expected = codec.decode(codec.encode(torch.from_numpy(audio)[None]))[0].numpy()[:, : audio.shape[1]]
    assert read_wav(ceiling.files["a"]) == pytest.approx(np.clip(expected, -1, 1), abs=1e-6)
    (problem,) = raised.problems
    assert (problem.system, problem.track) == (CEILING, "b")
    assert "not readable as audio" in problem.message
    monkeypatch.setattr(codec, "encode", None)
    assert with_ceiling(lineup, codec, tmp_path / "entries").system(CEILING) == ceiling
    alone = replace(lineup, systems=())
    assert with_ceiling(alone, codec, tmp_path) is alone
