import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from samuel.audio import Audio
from samuel.baselines.render import fitted, track_seed
from samuel.errors import InputError
from samuel.evaluate.cost import stated_efficiency
from samuel.evaluate.systems import folders
from tests.baselines.quieter import (
    Quieter,
    about,
    run,
    write,
)
from tests.generate.voices import voice


def test_each_vocal_gets_a_flac_of_its_name_and_length(vocals: Path, output: Path) -> None:
    outcomes = run(Quieter(), vocals, output)
    assert [outcome.file for outcome in outcomes] == [output / f"{name}.flac" for name in "abc"]
    for index, name in enumerate("abc"):
        info = soundfile.info(output / f"{name}.flac")
        assert (info.samplerate, info.channels, info.subtype) == (44_100, 2, "PCM_24")
        samples, _ = soundfile.read(output / f"{name}.flac")
        assert np.allclose(samples.T, 0.5 * voice(9_000 + index), atol=2**-22)


def test_the_record_is_what_evaluation_reads(vocals: Path, output: Path) -> None:
    run(Quieter(), vocals, output)
    lineup = folders(vocals, {"mine": output})
    assert lineup.problems == ()
    record = lineup.systems[0].about
    assert record == about(output)
    row, problem = stated_efficiency(lineup.systems[0])
    assert problem is None
    assert row is not None
    assert row["tracks"] == 3
    assert (record["system"], record["model"], record["parameters"]) == ("Quieter", "none", 1)
    assert (record["conditioning"], record["device"]) == ("vocal", "cpu")
    assert record["peak_memory_bytes"] > 10_000_000
    assert record["machine"]
    track = record["tracks"]["b"]
    assert track["file"] == "b.flac"
    assert track["sha256"] == hashlib.sha256((output / "b.flac").read_bytes()).hexdigest()
    assert track["vocal_sha256"] == hashlib.sha256((vocals / "b.wav").read_bytes()).hexdigest()
    assert track["duration_s"] == round(9_001 / 44_100, 6)
    assert 0 <= track["seconds"] < 60
    assert [record["tracks"][name]["warm_up"] for name in "abc"] == [True, False, False]


def test_each_track_is_rendered_with_its_own_recorded_seed(vocals: Path, output: Path) -> None:
    system = Quieter()
    run(system, vocals, output)
    assert system.seeds == [track_seed(7, name) for name in "abc"]
    assert [about(output)["tracks"][name]["seed"] for name in "abc"] == system.seeds


@pytest.mark.parametrize(("extra", "cut", "padded"), [(-441, 0.0, 0.01), (0, 0.0, 0.0), (882, 0.02, 0.0)])
def test_another_length_is_mended_and_said(
    extra: int, cut: float, padded: float, vocals: Path, output: Path
) -> None:
    def change(vocal: Audio) -> Audio:
        return vocal[:, :extra] if extra < 0 else np.pad(vocal, ((0, 0), (0, extra)))

    run(Quieter(change), vocals, output)
    track = about(output)["tracks"]["a"]
    assert (track["cut_s"], track["padded_s"]) == (cut, padded)
    samples, _ = soundfile.read(output / "a.flac")
    assert len(samples) == 9_000
    assert np.all(samples[9_000 + min(extra, 0) :] == 0)


def test_fitting_to_a_length() -> None:
    audio = np.ones((2, 3), np.float32)
    assert np.array_equal(fitted(audio, 5), [[1, 1, 1, 0, 0]] * 2)
    assert np.array_equal(fitted(audio, 2), [[1, 1]] * 2)
    assert fitted(audio, 5).dtype == np.float32


def test_a_peak_beyond_full_scale_is_limited_and_said(vocals: Path, output: Path) -> None:
    run(Quieter(lambda vocal: 2.0 * vocal / np.abs(vocal).max()), vocals, output)
    assert about(output)["tracks"]["a"]["overshoot_db"] == pytest.approx(6.02, abs=0.01)
    samples, _ = soundfile.read(output / "a.flac")
    assert 0.9 < np.abs(samples).max() <= 1.0


def test_what_is_there_is_not_made_again(vocals: Path, output: Path) -> None:
    run(Quieter(), vocals, output)
    before = (output / "system.json").read_bytes()
    (again := Quieter()).seeds.clear()
    outcomes = run(again, vocals, output)
    assert again.seeds == []
    assert [outcome.seconds for outcome in outcomes] == [None] * 3
    assert all(outcome.file and not outcome.message for outcome in outcomes)
    assert about(output)["tracks"] == json.loads(before)["tracks"]


def test_what_was_changed_or_removed_is_made_again(vocals: Path, output: Path) -> None:
    run(Quieter(), vocals, output)
    whole = (output / "a.flac").read_bytes()
    (output / "a.flac").write_bytes(whole[:-1] + b"!")
    (output / "b.flac").unlink()
    write(vocals, "c.wav", samples=5_000)  # another vocal under an old name
    run(again := Quieter(), vocals, output)
    assert len(again.seeds) == 3
    assert (output / "a.flac").read_bytes() == whole
    assert soundfile.info(output / "c.flac").frames == 5_000


def test_an_interrupted_run_goes_on(vocals: Path, output: Path) -> None:
    def change(vocal: Audio) -> Audio:
        if vocal.shape[1] == 9_001:
            raise KeyboardInterrupt
        return vocal

    with pytest.raises(KeyboardInterrupt):
        run(Quieter(change), vocals, output)
    assert list(about(output)["tracks"]) == ["a"]
    run(again := Quieter(), vocals, output)
    assert again.seeds == [track_seed(7, name) for name in "bc"]
    assert list(about(output)["tracks"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Quieter(settings={"gain": 0.25, "seed": 7}), r"settings\.gain: 0\.5 there, 0\.25 here"),
        (Quieter(settings={"seed": 7}), r"settings\.gain: 0\.5 there, None here"),
        (Quieter(name="Louder"), "system: 'Quieter' there, 'Louder' here"),
        (Quieter(model="some"), "model: 'none' there"),
        (Quieter(device=torch.device("meta")), "device: 'cpu' there, 'meta' here"),
    ],
)
def test_tracks_made_otherwise_are_not_mixed(other: Quieter, words: str, vocals: Path, output: Path) -> None:
    run(Quieter(), vocals, output)
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=words):
        run(other, vocals, output)
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before


def test_another_machine_is_named_beside_the_first(vocals: Path, output: Path) -> None:
    run(Quieter(), vocals, output)
    here = about(output)["machine"]
    text = (output / "system.json").read_text().replace(here, "An abacus, 1 core")
    (output / "system.json").write_text(text)
    for _ in range(2):
        run(Quieter(), vocals, output)
    assert about(output)["machine"] == f"An abacus, 1 core; {here}"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("song.flac", b"somebody's", r"holds 'song\.flac' and no system\.json"),
        ("system.json", b"{", "damaged"),
        ("system.json", b"[]", "damaged"),
        ("system.json", b'{"tracks": {"a": 1}}', "damaged"),
        ("system.json", b'{"tracks": {"a": {}}}', "written by something else"),
        ("system.json", b'{"tracks": {}}', "made otherwise"),
    ],
)
def test_a_folder_of_somebody_else_is_left_alone(
    name: str, content: bytes, words: str, vocals: Path, output: Path
) -> None:
    output.mkdir(parents=True)
    (output / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        run(Quieter(), vocals, output)
    assert [path.name for path in output.iterdir() if path.is_file()] == [name]
    assert (output / name).read_bytes() == content
