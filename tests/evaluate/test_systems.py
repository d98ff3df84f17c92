import json
import os
from pathlib import Path
from typing import Any

import pytest

from samuel.errors import InputError
from samuel.evaluate.systems import CEILING, REAL, Problem, System, folders


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture
def vocals(tmp_path: Path) -> Path:
    return fill(tmp_path / "vocals", "b.wav", "a.flac", "-c d.ogg", ".hidden.wav")


def test_files_belong_to_the_track_of_their_name(vocals: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", "a.mp3", "b.wav", "-c d.m4a")
    true = fill(tmp_path / "true", "a.wav", "b.wav", "-c d.wav")
    compared = folders(vocals, {"Other": other}, true)
    assert [track.name for track in compared.tracks] == ["-c d", "a", "b"]
    assert [system.name for system in compared.systems] == [REAL, "Other"]
    assert compared.system("Other") == System("Other", {n.stem: n for n in sorted(other.iterdir())})
    assert compared.problems == ()


def test_missing_surplus_and_doubtful_files_are_named_and_the_rest_is_compared(
    vocals: Path, tmp_path: Path
) -> None:
    other = fill(tmp_path / "other", "a.mp3", "a.wav", "e.wav", "-c d.wav", "Thumbs", "system.json")
    (other / "folder").mkdir()
    with (other / "sparse.wav").open("wb") as file:
        file.truncate(2**42)  # which nobody shall read
    compared = folders(vocals, {"Other": other})
    system = compared.system("Other")
    assert system
    assert system.files.keys() == {"-c d"}
    assert compared.problems == (
        Problem("Other", "folder", "not a file: not scored"),
        Problem("Other", "sparse", "larger than 2 GiB; give a part of it: not scored"),
        Problem("Other", "a", "a.mp3, a.wav: several of one name: not scored"),
        Problem("Other", "b", "no file of this name: not scored"),
        Problem("Other", "Thumbs", "no vocal of this name: not scored"),
        Problem("Other", "e", "no vocal of this name: not scored"),
        Problem("Other", "", compared.problems[-1].message),
    )
    assert compared.problems[-1].message.startswith("system.json: ")


@pytest.mark.parametrize("content", ["{", "\xff", "[" * 100_000, " " * (2**26 + 1)])
def test_a_damaged_record_is_named(vocals: Path, tmp_path: Path, content: str) -> None:
    other = fill(tmp_path / "other", "a.wav", "b.wav", "-c d.wav")
    (other / "system.json").write_text(content, "latin-1")
    (problem,) = folders(vocals, {"Other": other}).problems
    assert "its figures are left out" in problem.message


def test_a_wrong_figure_is_named_and_all_left_out(vocals: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", "a.wav", "b.wav", "-c d.wav")
    nan, far = {"seconds": float("nan"), "duration_s": 1}, {"seconds": 1e308, "duration_s": 1e-308}
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"parameters": -1}, "parameters"), ({"parameters": True}, "parameters"),
        ({"parameters": 10**400}, "parameters"), ({"tracks": {"a": far}}, "tracks.a.seconds"),
        ({"tracks": {"a": nan}}, "tracks.a.seconds"), ({"machine": "x" * 10_000}, "machine"),
    )  # fmt: skip
    for about, culprit in wrong:
        (other / "system.json").write_text(json.dumps(about))
        lineup = folders(vocals, {"Other": other})
        (problem,) = lineup.problems
        assert lineup.systems[0].record is None
        assert problem.message.startswith(f"system.json: {culprit}: ")
        assert problem.message.endswith(": its figures are left out")


@pytest.mark.parametrize(
    "name",
    [REAL, CEILING, " ", "REAL", "r eal", "\uff52eal", "the vocals", "Mix", "a\nb", "x" * 61, "\udcff"],
)
def test_the_names_of_others_are_reserved(vocals: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a system's name"):
        folders(vocals, {name: vocals})
    with pytest.raises(InputError, match="reads like another one"):
        folders(vocals, {"Mine": vocals, "mine ": vocals})


def test_what_is_not_there_is_named(vocals: Path, tmp_path: Path) -> None:
    for compared, systems, words in (
        (vocals, {"Other": tmp_path / "none"}, r"none: no such folder \(Other\)"),
        (vocals, {"Other": vocals / "a.flac"}, r"a\.flac: not a folder \(Other\)"),
        (vocals, {}, "no system is given"),
        (fill(tmp_path / "empty"), {"Other": vocals}, "holds no vocals"),
    ):
        with pytest.raises(InputError, match=words):
            folders(compared, systems)


def test_what_is_no_file_is_named(vocals: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", "b.wav", "-c d.wav")
    (other / "a.wav").symlink_to(tmp_path / "nothing.wav")
    (other / os.fsdecode(b"\xff.wav")).write_bytes(b"")
    compared = folders(vocals, {"Other": other})
    assert {(problem.track, problem.message) for problem in compared.problems} == {
        ("a", "a link to nothing: not scored"),
        ("?", "its name is not UTF-8; rename it: not scored"),
    }
