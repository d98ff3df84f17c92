import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from samuel.audio import SAMPLE_RATE, Audio
from samuel.baselines import render as rendering
from samuel.baselines.render import vocals_in
from samuel.errors import InputError, OperatorError
from samuel.evaluate.systems import folders
from tests.baselines.quieter import (
    Quieter,
    about,
    run,
    write,
)
from tests.generate.voices import voice

HOSTILE = [
    "--help.wav",
    "-y.wav",
    "a b.wav",
    "歌 é.wav",
    "<img src=x>&.wav",
    "$(true);.wav",
    "a%03d.wav",
    "x.y.wav",
]


def test_one_bad_vocal_stops_no_other(vocals: Path, output: Path) -> None:
    (vocals / "0.wav").write_bytes(b"la la la")
    (vocals / "b.wav").write_bytes(b"")
    soundfile.write(vocals / "empty.wav", np.zeros((0, 2)), SAMPLE_RATE)
    (vocals / "gone.wav").symlink_to("nowhere")
    outcomes = run(Quieter(), vocals, output)
    failed = {outcome.vocal.name: outcome.message for outcome in outcomes if outcome.file is None}
    assert list(failed) == ["0.wav", "b.wav", "empty.wav", "gone.wav"]
    assert "not readable as audio" in failed["0.wav"]
    assert "no regular file" in failed["gone.wav"]
    assert sorted(about(output)["tracks"]) == ["a", "c"]
    assert not (output / "b.flac").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (InputError("the vocal is too long"), "the vocal is too long"),
        (torch.OutOfMemoryError("out of memory\nmore"), "out of memory"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_a_system_cannot_do_stops_no_other(
    fault: Exception, words: str, vocals: Path, output: Path
) -> None:
    def change(vocal: Audio) -> Audio:
        if vocal.shape[1] == 9_001:
            raise fault
        return vocal

    outcomes = run(Quieter(change), vocals, output)
    assert [outcome.message for outcome in outcomes] == ["", words, ""]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_told(value: float, vocals: Path, output: Path) -> None:
    outcomes = run(Quieter(lambda vocal: np.full_like(vocal, value)), vocals, output)
    assert all("no numbers; take precision fp32" in outcome.message for outcome in outcomes)
    assert [path.name for path in output.iterdir() if path.is_file()] == ["system.json"]


def test_a_full_disk_stops_the_run(vocals: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rendering, "write_accompaniment", full)
    with pytest.raises(OperatorError, match="disk is full"):
        run(Quieter(), vocals, output)
    assert about(output)["tracks"] == {}


def test_hostile_names_are_names(tmp_path: Path, output: Path) -> None:
    outcomes = run(Quieter(), write(tmp_path / "vocals", *HOSTILE), output)
    assert [outcome.message for outcome in outcomes] == [""] * len(HOSTILE)
    wanted = sorted(f"{name[:-4]}.flac" for name in HOSTILE)
    assert sorted(path.name for path in output.iterdir() if path.suffix == ".flac") == wanted
    assert folders(tmp_path / "vocals", {"mine": output}).problems == ()


def test_names_under_which_nothing_can_lie_fail_alone(vocals: Path, output: Path) -> None:
    write(vocals, "x" * 251 + ".wav")
    shared = vocals / "c.ogg"
    soundfile.write(shared, voice(4_000).T, SAMPLE_RATE)
    undecodable = os.fsdecode(os.fsencode(vocals) + b"/\xff.wav")
    Path(undecodable).write_bytes((vocals / "a.wav").read_bytes())
    failed = {
        outcome.vocal.name: outcome.message for outcome in run(Quieter(), vocals, output) if outcome.message
    }
    assert list(about(output)["tracks"]) == ["a", "b"]
    assert (
        failed.pop("c.ogg")
        == failed.pop("c.wav")
        == ("c.ogg, c.wav: one name, and one accompaniment; rename all but one")
    )
    assert "not UTF-8" in failed.pop("\udcff.wav")
    assert "too long a name" in failed.pop("x" * 251 + ".wav")
    assert failed == {}


def test_what_is_no_vocal_is_passed_over_and_named(vocals: Path, output: Path) -> None:
    for name in (".hidden.wav", "notes.txt", "cover.jpg"):
        (vocals / name).write_bytes(b"")
    (vocals / "more.wav").mkdir()
    found = vocals_in(vocals, output)
    assert list(found.files) == ["a", "b", "c"]
    assert found.skipped == [
        (".hidden.wav", "hidden"),
        ("cover.jpg", "no audio file, by its suffix"),
        ("more.wav", "a folder"),
        ("notes.txt", "no audio file, by its suffix"),
    ]


def test_a_folder_that_cannot_be_the_vocals_is_told(vocals: Path, tmp_path: Path, output: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        vocals_in(tmp_path / "absent", output)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no audio"):
        vocals_in(tmp_path / "empty", output)
    with pytest.raises(InputError, match="would be written over"):
        vocals_in(vocals, tmp_path / "empty" / ".." / "vocals")
    with pytest.raises(InputError, match="no folder"):
        vocals_in(vocals, vocals / "a.wav")
