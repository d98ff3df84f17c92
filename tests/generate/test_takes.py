import dataclasses
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import SamplingConfig
from samuel.errors import InputError, OperatorError
from samuel.generate import Keep, Request, Take, generate, ranges_of
from tests.generate.voices import voice

Make = Callable[..., list[Take]]
SAMPLES = 150_001
SEED_5, SEED_6 = (SamplingConfig(steps=2, seed=seed) for seed in (5, 6))


@pytest.fixture(scope="module")
def vocal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocal") / "vocal.flac"
    soundfile.write(path, voice(SAMPLES).T, 44_100)
    return path


@pytest.fixture(scope="module")
def first(vocal: Path, model: TrainedModel, codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Take:
    """The take of the plain request."""
    output = tmp_path_factory.mktemp("first") / "out" / "band.wav"
    (take,) = generate(Request(vocal, output, SEED_5), model, codec, lambda *_: None)
    return take


@pytest.fixture
def make(vocal: Path, model: TrainedModel, codec: Codec, tmp_path: Path) -> Make:
    request = Request(vocal, tmp_path / "out" / "band.wav", SEED_5)
    return lambda **changed: generate(dataclasses.replace(request, **changed), model, codec, lambda *_: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_a_record_says_how_its_take_and_its_mix_were_made(
    first: Take, vocal: Path, model: TrainedModel, codec: Codec
) -> None:
    take, record = first, json.loads(first.record.read_text())
    assert set(contents(take.record.parent)) == {"band-mix.wav", "band.json", "band.wav"}
    assert record["seed"] == record["sampling"]["seed"] == 5
    assert SamplingConfig.model_validate(record["sampling"]) == SEED_5
    assert (record["model_sha256"], record["codec"]) == (model.sha256, codec.info.model_dump())
    assert record["vocal"]["file"] == "vocal.flac"
    assert record["vocal"]["sha256"] == hashlib.sha256(vocal.read_bytes()).hexdigest()
    assert record["vocal"]["duration_s"] == pytest.approx(SAMPLES / 44_100, abs=1e-3)
    gain, total = (10 ** (record["balance"][f"{part}_gain_db"] / 20) for part in ("accompaniment", "mix"))
    band, mix, voices = (soundfile.read(path)[0] for path in (take.accompaniment, take.mix, vocal))
    assert band.shape == (SAMPLES, 2)
    assert np.allclose(mix, total * (voices + gain * band), atol=1e-5)
    assert np.abs(mix).max() <= 10 ** (-1 / 20) + 1e-6


def test_the_same_request_gives_the_same_bytes(first: Take, make: Make) -> None:
    (again,) = make()
    assert contents(again.record.parent) == contents(first.record.parent)


def test_takes_have_the_seeds_that_follow_and_are_those_of_single_requests(
    first: Take, make: Make, tmp_path: Path
) -> None:
    takes = make(takes=2, sampling=SamplingConfig(steps=2, seed=4))
    assert [take.seed for take in takes] == [4, 5]
    assert [take.accompaniment.name for take in takes] == ["band-1.wav", "band-2.wav"]
    assert len(contents(tmp_path / "out")) == 6
    assert takes[1].accompaniment.read_bytes() == first.accompaniment.read_bytes()
    assert takes[0].accompaniment.read_bytes() != first.accompaniment.read_bytes()


def test_kept_seconds_stay_and_the_rest_is_written_knowing_them(
    first: Take, make: Make, tmp_path: Path
) -> None:
    old = first.accompaniment
    (new,) = make(sampling=SEED_6, keep=Keep(old, ((0.5, 2.0),)))
    before, after = (soundfile.read(path)[0] for path in (old, new.accompaniment))
    assert np.array_equal(before[23_000:87_000], after[23_000:87_000])
    assert not np.allclose(before[:20_000], after[:20_000], atol=1e-3)
    kept = json.loads(new.record.read_text())["kept"]
    assert kept["ranges_s"] == [[0.5, 2.0]]
    assert kept["sha256"] == hashlib.sha256(old.read_bytes()).hexdigest()
    # With the same seed, another accompaniment to keep changes what comes after it.
    soundfile.write(tmp_path / "noise.wav", 0.3 * np.random.default_rng(1).normal(size=SAMPLES), 44_100)
    keep = Keep(tmp_path / "noise.wav", ((0.5, 2.0),))
    (other,) = make(sampling=SEED_6, keep=keep, output=tmp_path / "other.wav")
    assert not np.array_equal(soundfile.read(other.accompaniment)[0][95_000:], after[95_000:])


def test_nothing_that_is_read_is_written_over(make: Make, vocal: Path, tmp_path: Path) -> None:
    (tmp_path / "take-mix.flac").symlink_to(vocal)
    keeping = {"vocal": Path("another"), "keep": Keep(vocal, ((1.0, 3.0),))}
    for request in ({"output": vocal}, {"output": tmp_path / "take.flac", **keeping}):
        with pytest.raises(InputError, match="written over what is read"):
            make(**request)


def test_names_that_are_no_utf8_are_recorded_as_they_can_be(make: Make, vocal: Path, tmp_path: Path) -> None:
    strange = Path(os.fsdecode(bytes(tmp_path) + b"/b\xff.flac"))
    strange.write_bytes(vocal.read_bytes())
    (take,) = make(vocal=strange, output=Path(os.fsdecode(bytes(tmp_path) + b"/o\xff.wav")))
    assert json.loads(take.record.read_text())["vocal"]["file"] == "b\N{REPLACEMENT CHARACTER}.flac"
    with take.mix.open("rb") as mix:
        assert soundfile.info(mix).frames == SAMPLES


def test_a_failure_at_the_mix_leaves_the_earlier_take(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make()
    before = contents(tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("samuel.generate.output.write_mix", full)
    with pytest.raises(OperatorError, match="disk is full"):
        make(sampling=SEED_6)
    assert contents(tmp_path / "out") == before


class StopError(Exception):
    """Raised where a test wants a run to end."""


@pytest.mark.parametrize("at", ["encode", "write"])
def test_what_is_stopped_leaves_finished_takes_and_nothing_else(
    at: str, vocal: Path, model: TrainedModel, codec: Codec, tmp_path: Path
) -> None:
    calls: list[str] = []

    def stop_in_the_second_take(what: str, done: int, _: int) -> None:
        calls.append(what)
        if what == at and (what == "encode" or "write" in calls[:-2]):
            raise StopError

    request = Request(vocal, tmp_path / "out" / "a.wav", SamplingConfig(steps=2), takes=2)
    with pytest.raises(StopError):
        generate(request, model, codec, stop_in_the_second_take)
    finished = set() if at == "encode" else {"a-1-mix.wav", "a-1.json", "a-1.wav"}
    assert set(contents(tmp_path / "out")) == finished


def test_ranges_are_read_as_people_write_them() -> None:
    assert ranges_of("0-12.5,30-") == ((0.0, 12.5), (30.0, math.inf))
    assert ranges_of(" 1.25 - 2 ") == ((1.25, 2.0),)
    for text in ("", "-", "5", "5-3", "5-5", "-5-3", "1-2,", "nan-inf", "1-2-3", "1e3-2e3"):
        with pytest.raises(InputError, match="write them as 0-12"):
            ranges_of(text)


def test_only_takes_of_ours_are_replaced(make: Make, tmp_path: Path) -> None:
    for sampling in (SEED_5, SEED_6):
        (take,) = make(sampling=sampling)
        assert json.loads(take.record.read_text())["seed"] == sampling.seed
    (tmp_path / "a").mkdir()
    for name, content in (("band.json", "{}"), ("band-mix.wav", "a friend's")):
        place = tmp_path / "a" / name
        place.write_text(content)
        with pytest.raises(InputError, match=rf"{name}: is there, and of no earlier take"):
            make(output=tmp_path / "a" / "band.wav")
        assert place.read_text() == content
        place.unlink()
