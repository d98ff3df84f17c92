"""Folders of accompaniments: whole, resumable, and refused where they are somebody else's."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from samuel.audio import SAMPLE_RATE, Audio
from samuel.baselines.render import Outcome, Renderer, render_folder, track_seed, vocals_in
from samuel.config import BaselineConfig
from samuel.errors import InputError
from samuel.evaluate.cost import stated_efficiency
from samuel.evaluate.systems import folders
from tests.decoding import write_ten_hours
from tests.generate.voices import voice

HOSTILE = ("--help.wav", "a b.wav", "歌 é.wav", "<img src=x>&.wav", "$(true);.wav", "a%03d.wav", "x.y.wav")


class Quieter(Renderer):
    """A system that plays the vocal back at half its level, or whatever else is wanted."""

    name = "Quieter"
    conditioning = "vocal"

    def __init__(
        self, change: Callable[[Audio], Audio] = lambda vocal: 0.5 * vocal, device: str = "cpu",
        model: str = "none", **identity: Any,
    ) -> None:  # fmt: skip
        network, config = torch.nn.Linear(1, 1), BaselineConfig(seed=7)
        super().__init__(model, network, config, torch.device(device), **identity)
        self.change, self.seeds = change, list[int]()

    def render(self, vocal: Audio, seed: int) -> Audio:
        self.seeds.append(seed)
        return self.change(vocal)


def write(folder: Path, *names: str, samples: int = 9_000) -> Path:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        soundfile.write(str(folder / name), voice(samples + index).T, SAMPLE_RATE, "PCM_24", format="WAV")
    return folder


@pytest.fixture
def vocals(tmp_path: Path) -> Path:
    return write(tmp_path / "vocals", "a.wav", "b.wav", "c.wav")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "quieter"


def run(system: Renderer, vocals: Path, output: Path) -> list[Outcome]:
    reported: list[Outcome] = []
    outcomes = render_folder(system, vocals_in(vocals, output), output, reported.append)
    assert reported == outcomes
    return outcomes


def about(output: Path) -> Any:
    return json.loads((output / "system.json").read_text("utf-8"))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def fails_at_b(error: BaseException) -> Callable[[Audio], Audio]:
    def change(vocal: Audio) -> Audio:
        if vocal.shape[1] == 9_001:
            raise error
        return vocal

    return change


def test_each_vocal_gets_a_flac_of_its_name_and_length_and_evaluation_reads_the_record(
    vocals: Path, output: Path
) -> None:
    outcomes = run(system := Quieter(gain=0.5), vocals, output)
    assert [outcome.file for outcome in outcomes] == [output / f"{name}.flac" for name in "abc"]
    for index, name in enumerate("abc"):
        info = soundfile.info(output / f"{name}.flac")
        assert (info.samplerate, info.channels, info.subtype) == (44_100, 2, "PCM_24")
        samples, _ = soundfile.read(output / f"{name}.flac")
        assert np.allclose(samples.T, 0.5 * voice(9_000 + index), atol=2**-22)
    lineup = folders(vocals, {"mine": output})
    assert lineup.problems == ()
    assert stated_efficiency(lineup.systems[0])["tracks"] == 3  # type: ignore[index]
    record = about(output)
    assert (record["system"], record["model"], record["parameters"]) == ("Quieter", "none", 2)
    assert (record["conditioning"], record["device"]) == ("vocal", "cpu")
    assert record["settings"].items() >= {"gain": 0.5, "seed": 7}.items()
    assert record["peak_memory_bytes"] > 10_000_000
    track = record["tracks"]["b"]
    assert track["file"] == "b.flac"
    assert track["sha256"] == hashlib.sha256((output / "b.flac").read_bytes()).hexdigest()
    assert track["vocal_sha256"] == hashlib.sha256((vocals / "b.wav").read_bytes()).hexdigest()
    assert track["duration_s"] == round(9_001 / 44_100, 6)
    assert [record["tracks"][name]["warm_up"] for name in "abc"] == [True, False, False]
    assert [record["tracks"][name]["seed"] for name in "abc"] == system.seeds
    assert system.seeds == [track_seed(7, name) for name in "abc"]


def test_only_what_is_missing_changed_or_of_another_vocal_is_made_again(vocals: Path, output: Path) -> None:
    run(Quieter(), vocals, output)
    before = files_in(output)
    outcomes = run(again := Quieter(), vocals, output)
    assert again.seeds == []
    assert all(outcome.file and outcome.seconds is None for outcome in outcomes)
    assert files_in(output) == before
    (output / "a.flac").write_bytes(before["a.flac"][:-1] + b"!")
    (output / "b.flac").unlink()
    write(vocals, "c.wav", samples=5_000)  # another vocal under an old name
    run(again, vocals, output)
    assert len(again.seeds) == 3
    assert (output / "a.flac").read_bytes() == before["a.flac"]
    assert soundfile.info(output / "c.flac").frames == 5_000


def test_an_interrupted_run_goes_on(vocals: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Quieter(fails_at_b(KeyboardInterrupt())), vocals, output)
    assert list(about(output)["tracks"]) == ["a"]
    run(again := Quieter(), vocals, output)
    assert again.seeds == [track_seed(7, name) for name in "bc"]
    assert list(about(output)["tracks"]) == ["a", "b", "c"]


def test_tracks_made_otherwise_are_not_mixed_and_another_machine_is_named(vocals: Path, output: Path) -> None:
    run(Quieter(gain=0.5), vocals, output)
    before = files_in(output)
    with pytest.raises(InputError, match=r"settings\.gain: 0\.5 there, 0\.25 here"):
        run(Quieter(gain=0.25), vocals, output)
    assert files_in(output) == before
    here = about(output)["machine"]
    text = (output / "system.json").read_text().replace(here, "An abacus, 1 core")
    (output / "system.json").write_text(text)
    for _ in range(2):
        run(Quieter(gain=0.5), vocals, output)
    assert about(output)["machine"] == f"An abacus, 1 core; {here}"


def test_a_folder_of_somebody_else_is_left_alone(vocals: Path, output: Path) -> None:
    output.mkdir(parents=True)
    for name, content, words in (
        ("song.flac", b"somebody's", r"holds 'song\.flac' and no system\.json"),
        ("system.json", b"\xff" * 4, r"system\.json: Invalid JSON"),
    ):
        (output / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            run(Quieter(), vocals, output)
        assert files_in(output)[name] == content


def test_one_bad_vocal_stops_no_other(vocals: Path, output: Path) -> None:
    (vocals / "0.wav").write_bytes(b"la la la")
    soundfile.write(vocals / "empty.wav", np.zeros((0, 2)), SAMPLE_RATE)
    write_ten_hours(vocals / "long.flac")
    write(vocals, "x" * 251 + ".wav")
    soundfile.write(vocals / "c.ogg", voice(4_000).T, SAMPLE_RATE)
    undecodable = os.fsdecode(os.fsencode(vocals) + b"/\xff.wav")
    Path(undecodable).write_bytes((vocals / "a.wav").read_bytes())
    outcomes = run(Quieter(), vocals, output)
    failed = {outcome.vocal.name: outcome.message for outcome in outcomes if outcome.file is None}
    assert failed.pop("c.ogg") == "c.ogg, c.wav: several of one name"
    assert "not UTF-8" in failed.pop("\udcff.wav")
    assert "too long a name" in failed.pop("x" * 251 + ".wav")
    assert "not readable as audio" in failed.pop("0.wav")
    assert "lasts over 10800 s" in failed.pop("long.flac")
    assert list(failed) == ["empty.wav"]
    assert list(about(output)["tracks"]) == ["a", "b"]


def test_hostile_names_are_names(tmp_path: Path, output: Path) -> None:
    outcomes = run(Quieter(), write(tmp_path / "vocals", *HOSTILE), output)
    assert [outcome.message for outcome in outcomes] == [""] * len(HOSTILE)
    wanted = sorted(f"{name[:-4]}.flac" for name in HOSTILE)
    assert sorted(path.name for path in output.iterdir() if path.suffix == ".flac") == wanted
    assert folders(tmp_path / "vocals", {"mine": output}).problems == ()


def test_what_cannot_be_vocals_is_passed_over_or_refused(vocals: Path, output: Path, tmp_path: Path) -> None:
    for name in (".hidden.wav", "notes.txt"):
        (vocals / name).write_bytes(b"")
    (vocals / "more.wav").mkdir()
    (tmp_path / "empty").mkdir()
    found = vocals_in(vocals, output)
    assert list(found.files) == ["a", "b", "c"]
    assert [outcome.vocal.name for outcome in found.failed] == ["more.wav"]
    assert found.skipped == ["notes.txt"]
    with pytest.raises(InputError, match="would be written over"):
        vocals_in(vocals, tmp_path / "empty/../vocals")
