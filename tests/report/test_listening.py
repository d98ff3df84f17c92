from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import write_wav
from samuel.errors import InputError
from samuel.report.listening import (
    Heard,
    file_names,
    write_audio,
    write_tracks,
)
from tests.report.evaluations import noise


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a-000", "b.v2"], ["a-000", "b.v2"]),
        (["../../etc/passwd", "-rf", ".hidden"], ["etc-passwd", "rf", "hidden"]),
        (["a b", "a/b", "A*B"], ["a-b", "a-b-2", "A-B-3"]),  # alike where case does not count
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["日本", "", "\x00"], ["track", "track-2", "track-3"]),
        (["x" * 300], ["x" * 100]),
    ],
)
def test_names_lead_nowhere_and_are_different(names: list[str], files: list[str]) -> None:
    assert file_names(names) == files


def test_samples_of_a_wav_are_kept_to_16_bits_and_clipped(tmp_path: Path) -> None:
    audio = 3 * noise(7.0)  # longer than a block
    audio[:, 100] = np.nan
    audio[0, 50], audio[1, 50] = 1.5, -1.5
    write_wav(tmp_path / "in.wav", audio)
    write_audio(tmp_path / "in.wav", tmp_path / "deep" / "out.flac")
    heard, rate = soundfile.read(tmp_path / "deep" / "out.flac")
    assert rate == 44_100
    np.testing.assert_allclose(heard.T, np.nan_to_num(audio).clip(-1, 1), atol=1 / 2**15)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.flac"]


def test_mono_of_another_rate_goes_into_both_channels(tmp_path: Path) -> None:
    time_s = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "in.flac", 0.5 * np.sin(2 * np.pi * 440 * time_s), 48_000)
    write_audio(tmp_path / "in.flac", tmp_path / "out.flac")
    heard, rate = soundfile.read(tmp_path / "out.flac")
    assert (rate, heard.shape) == (44_100, (44_100, 2))
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    np.testing.assert_allclose(heard[1000:-1000], np.stack([wanted] * 2, axis=1)[1000:-1000], atol=2e-3)


def test_what_is_there_stays_and_what_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "out.flac").write_text("here")
    write_audio(tmp_path / "gone.wav", tmp_path / "out.flac")
    assert (tmp_path / "out.flac").read_text() == "here"
    with pytest.raises(InputError, match=r"gone\.wav: no such file"):
        write_audio(tmp_path / "gone.wav", tmp_path / "other.flac")


def test_one_track_has_one_name_in_every_folder(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", noise(0.1))
    names = ["a?", "a*"]
    tracks = [Heard(name, name, dict.fromkeys(("vocal", "Sys/tem"), tmp_path / "x.wav")) for name in names]
    written = write_tracks(tracks, tmp_path / "out")
    assert [item.links for item in written] == [
        {"vocal": f"audio/vocal/{name}.flac", "Sys/tem": f"audio/sys-tem/{name}.flac"}
        for name in ("a", "a-2")
    ]
    assert all((tmp_path / "out" / link).is_file() for item in written for link in item.links.values())
