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
import torch

from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import SamplingConfig
from samuel.errors import InputError, OperatorError
from samuel.generate import Keep, Request, Take, generate, ranges_of
from samuel.generate.takes import FADE_S, Existing, merged_ranges
from samuel.generate.vocal import Vocal, vocal_of
from tests.generate.voices import HalfSeparator, voice

Make = Callable[..., list[Take]]


@pytest.fixture
def vocal(tmp_path: Path) -> Path:
    path = tmp_path / "vocal.flac"
    soundfile.write(path, voice(300_001).T, 44_100)
    return path


@pytest.fixture
def make(vocal: Path, model: TrainedModel, codec: Codec, tmp_path: Path) -> Make:
    request = Request(vocal, tmp_path / "out" / "band.wav", SamplingConfig(steps=2, seed=5))
    return lambda **changed: generate(dataclasses.replace(request, **changed), model, codec, lambda *_: None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_take_is_an_accompaniment_a_mix_and_a_record(make: Make, vocal: Path, tmp_path: Path) -> None:
    (take,) = make()
    assert names(tmp_path / "out") == ["band-mix.wav", "band.json", "band.wav"]
    accompaniment, mix = (soundfile.info(path) for path in (take.accompaniment, take.mix))
    assert (accompaniment.frames, accompaniment.channels, accompaniment.samplerate) == (300_001, 2, 44_100)
    assert accompaniment.subtype == mix.subtype == "PCM_24"
    assert mix.frames == 300_001


def test_a_record_says_how_its_take_and_its_mix_were_made(
    make: Make, vocal: Path, model: TrainedModel, codec: Codec
) -> None:
    (take,) = make()
    record = json.loads(take.record.read_text())
    assert record["seed"] == record["sampling"]["seed"] == 5
    assert SamplingConfig.model_validate(record["sampling"]) == SamplingConfig(steps=2, seed=5)
    assert (record["model_sha256"], record["codec"]) == (model.sha256, codec.info.model_dump())
    assert record["vocal"]["file"] == "vocal.flac"
    assert record["vocal"]["sha256"] == hashlib.sha256(vocal.read_bytes()).hexdigest()
    assert record["vocal"]["duration_s"] == pytest.approx(300_001 / 44_100, abs=1e-3)
    gain, total = (10 ** (record["balance"][f"{part}_gain_db"] / 20) for part in ("accompaniment", "mix"))
    band, mix, voices = (soundfile.read(path)[0] for path in (take.accompaniment, take.mix, vocal))
    assert np.allclose(mix, total * (voices + gain * band), atol=1e-5)
    assert np.abs(mix).max() <= 10 ** (-1 / 20) + 1e-6


def test_the_same_request_gives_the_same_bytes(make: Make, tmp_path: Path) -> None:
    first, second = make()[0], make(output=tmp_path / "again" / "band.wav")[0]
    for name in ("accompaniment", "mix", "record"):
        assert getattr(first, name).read_bytes() == getattr(second, name).read_bytes()


def test_takes_have_the_seeds_that_follow_and_are_those_of_single_requests(
    make: Make, tmp_path: Path
) -> None:
    takes = make(takes=3, output=tmp_path / "three" / "band.flac")
    assert [take.seed for take in takes] == [5, 6, 7]
    assert [take.accompaniment.name for take in takes] == ["band-1.flac", "band-2.flac", "band-3.flac"]
    assert len(names(tmp_path / "three")) == 9
    single = make(sampling=SamplingConfig(steps=2, seed=7), output=tmp_path / "one.flac")[0]
    assert single.accompaniment.read_bytes() == takes[2].accompaniment.read_bytes()
    assert single.accompaniment.read_bytes() != takes[0].accompaniment.read_bytes()


def test_kept_seconds_are_those_of_the_existing_accompaniment(make: Make, tmp_path: Path) -> None:
    (old,) = make()
    keep = Keep(old.accompaniment, ((1.0, 3.0),))
    (new,) = make(sampling=SamplingConfig(steps=2, seed=6), keep=keep, output=tmp_path / "new.wav")
    before, after = (soundfile.read(take.accompaniment)[0] for take in (old, new))
    assert np.array_equal(before[46_000:131_000], after[46_000:131_000])
    assert not np.allclose(before[:40_000], after[:40_000], atol=1e-3)
    kept = json.loads(new.record.read_text())["kept"]
    assert kept["ranges_s"] == [[1.0, 3.0]]
    assert kept["sha256"] == hashlib.sha256(old.accompaniment.read_bytes()).hexdigest()


def test_the_rest_is_written_knowing_what_stays(make: Make, tmp_path: Path) -> None:
    """With the same seed, another accompaniment to keep changes what comes after it."""
    rests = []
    for seed in (1, 2):
        noise = 0.3 * np.random.default_rng(seed).normal(size=300_001)
        soundfile.write(tmp_path / "old.wav", noise, 44_100)
        keep = Keep(tmp_path / "old.wav", ((1.0, 3.0),))
        (take,) = make(keep=keep, output=tmp_path / f"{seed}.wav")
        rests.append(soundfile.read(take.accompaniment)[0][140_000:])
    assert not np.array_equal(*rests)


def test_the_vocal_of_a_song_is_separated_first_and_may_be_cut(make: Make, tmp_path: Path) -> None:
    separator = HalfSeparator()
    plain, separated = make(length_s=1.5), make(separator=separator, length_s=1.5, output=tmp_path / "b.wav")
    assert soundfile.info(plain[0].accompaniment).frames == 66_150
    assert json.loads(separated[0].record.read_text())["vocal"]["separator"] == separator.identity
    assert plain[0].accompaniment.read_bytes() != separated[0].accompaniment.read_bytes()


def test_nothing_that_is_read_is_written_over(make: Make, vocal: Path, tmp_path: Path) -> None:
    before = vocal.read_bytes()
    (tmp_path / "link.flac").symlink_to(vocal)
    keep = Keep(vocal, ((1.0, 3.0),))
    for changed in ({"output": vocal}, {"output": tmp_path / "link.flac"}):
        with pytest.raises(InputError, match="written over what is read"):
            make(**changed)
    (tmp_path / "take-mix.flac").symlink_to(vocal)
    with pytest.raises(InputError, match="written over what is read"):
        make(output=tmp_path / "take.flac", vocal=tmp_path / "another.wav", keep=keep)
    assert vocal.read_bytes() == before


def test_only_takes_of_ours_are_replaced(make: Make, tmp_path: Path) -> None:
    make()
    (second,) = make(sampling=SamplingConfig(steps=2, seed=6))
    assert json.loads(second.record.read_text())["seed"] == 6
    for name, content in (("band.json", "{}"), ("band-mix.wav", "a friend's")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=rf"{name}: is there, and of no earlier take"):
            make(output=folder / "band.wav")
        assert (folder / name).read_text() == content
    (tmp_path / "folder" / "band.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"band\.json: is there"):
        make(output=tmp_path / "folder" / "band.wav")


def test_names_that_are_no_utf8_are_recorded_as_they_can_be(make: Make, vocal: Path, tmp_path: Path) -> None:
    strange = Path(os.fsdecode(bytes(tmp_path) + b"/b\xff.flac"))
    vocal.rename(strange)
    (take,) = make(vocal=strange, output=Path(os.fsdecode(bytes(tmp_path) + b"/o\xff.wav")))
    record = json.loads(take.record.read_text())
    assert record["vocal"]["file"] == "b\N{REPLACEMENT CHARACTER}.flac"
    with take.mix.open("rb") as mix:
        assert soundfile.info(mix).frames == 300_001


def test_a_failure_at_the_mix_leaves_the_earlier_take(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("samuel.generate.takes.write_mix", full)
    with pytest.raises(OperatorError, match="disk is full"):
        make(sampling=SamplingConfig(steps=2, seed=6))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_progress_goes_through_all_parts(
    vocal: Path, model: TrainedModel, codec: Codec, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    request = Request(vocal, tmp_path / "a.wav", SamplingConfig(steps=2))
    generate(request, model, codec, lambda *step: seen.append(step))
    assert list(dict.fromkeys(what for what, _, _ in seen)) == ["encode", "sample", "decode", "write"]
    for what in ("encode", "sample", "decode", "write"):
        steps = [(done, of) for name, done, of in seen if name == what]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"takes": 101}, "101 takes"),
        ({"balance_db": float("nan")}, "balance"),
        ({"length_s": 0.0}, "length_s"),
        ({"vocal": Path("absent.wav")}, r"absent\.wav: no such file"),
        ({"output": Path("band.mp3")}, "neither .wav nor .flac"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_nothing(
    make: Make, changed: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        make(**changed)
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


class StopError(Exception):
    """Raised where a test wants a run to end."""


@pytest.mark.parametrize("at", ["encode", "sample", "decode", "write"])
def test_what_is_stopped_leaves_finished_takes_and_nothing_else(
    at: str, vocal: Path, model: TrainedModel, codec: Codec, tmp_path: Path
) -> None:
    calls: list[str] = []

    def stop_in_the_second_take(what: str, done: int, _: int) -> None:
        calls.append(what)
        second = what == "encode" or "write" in calls[:-2]
        if what == at and second:
            raise StopError

    request = Request(vocal, tmp_path / "out" / "a.wav", SamplingConfig(steps=2), takes=2)
    with pytest.raises(StopError):
        generate(request, model, codec, stop_in_the_second_take)
    finished = [] if at == "encode" else ["a-1-mix.wav", "a-1.json", "a-1.wav"]
    assert names(tmp_path / "out") == finished


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("0-12.5,30-", ((0.0, 12.5), (30.0, math.inf))),
        (" 1.25 - 2 ", ((1.25, 2.0),)),
        ("7-", ((7.0, math.inf),)),
    ],
)
def test_ranges_are_read_as_people_write_them(text: str, ranges: tuple[tuple[float, float], ...]) -> None:
    assert ranges_of(text) == ranges


@pytest.mark.parametrize("text", ["", "-", "5", "5-3", "5-5", "-5-3", "1-2,", "nan-inf", "1-2-3", "1e3-2e3"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write them as 0-12"):
        ranges_of(text)


@pytest.fixture
def old(tmp_path: Path) -> Vocal:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 100 * 2048)).astype(np.float32)
    return vocal_of(noise, tmp_path)


def test_frames_that_lie_in_a_range_as_a_whole_are_kept(old: Vocal, codec: Codec) -> None:
    frame_s = 2048 / 44_100
    ranges = ((9.5 * frame_s, 20.5 * frame_s), (90 * frame_s, math.inf))
    kept = Existing(old, ranges).encode(codec, 128)  # silence after a short vocal is kept to the end
    assert kept.mask.nonzero().flatten().tolist() == [*range(10, 20), *range(90, 128)]
    expected = codec.encode(torch.from_numpy(old.read(0, 128 * 2048))[None])
    torch.testing.assert_close(kept.x0, expected)


def test_an_accompaniment_too_short_to_be_kept_is_refused(make: Make, vocal: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", voice(300_000 - 2048).T, 44_100)
    with pytest.raises(InputError, match=r"lasts 6\.76 s, the vocal 6\.80 s"):
        make(keep=Keep(tmp_path / "short.wav", ((0.0, 1.0),)))


def test_ranges_that_touch_are_one_and_the_end_of_the_vocal_is_no_end() -> None:
    inf = math.inf
    assert merged_ranges(((3.0, 5.0), (0.0, 3.0)), 9.0) == ((0.0, 5.0),)
    assert merged_ranges(((1.0, 4.0), (2.0, 3.0), (6.0, inf)), 9.0) == ((1.0, 4.0), (6.0, inf))
    assert merged_ranges(((0.0, 9.0),), 9.0) == ((0.0, inf),)
    assert merged_ranges(((2.0, 12.0), (1.0, 1.5)), 9.0) == ((1.0, 1.5), (2.0, inf))


@pytest.mark.parametrize("kept", [(9.0, 10.0), (1.0, 1.05), (8.95, math.inf)])
def test_ranges_that_keep_nothing_are_refused(kept: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=rf"from {kept[0]:g} s on, less than 0\.1 s of the vocal to keep"):
        merged_ranges((kept,), 9.0)


def test_the_old_samples_themselves_stay_and_pass_into_the_new_ones(old: Vocal) -> None:
    new = np.full((2, old.samples), 0.5, dtype=np.float32)
    ranges = ((0.0, 1.0), (2.0, 3.0), (4.0, math.inf))
    blocks = np.split(new, [1000, 50_000, 50_001, 150_000], axis=1)
    result = np.concatenate(list(Existing(old, ranges).paste_into(blocks)), axis=1)
    before = old.read(0, old.samples)
    fade = round(FADE_S * 44_100) + 1
    s = 44_100
    for start, stop in ((0, s - fade), (2 * s + fade, 3 * s - fade), (4 * s + fade, old.samples)):
        assert np.array_equal(result[:, start:stop], before[:, start:stop])
    for start, stop in ((s, 2 * s), (3 * s, 4 * s)):
        assert np.array_equal(result[:, start:stop], new[:, start:stop])
    share = (result - before)[0, 2 * s : 2 * s + fade - 1] / (new - before)[0, 2 * s : 2 * s + fade - 1]
    assert np.allclose(np.diff(share), -1 / (FADE_S * s), atol=1e-4)  # a straight line from new to old
