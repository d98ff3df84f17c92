"""Whatever a folder may hold, from the file to its latents or its status, by the code that a run uses."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from safetensors.numpy import load_file

from samuel.audio import SAMPLE_RATE, Audio, read_wav, run_ffmpeg
from samuel.codecs.mel import FLOOR
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from tests.popdb.latents import FRAMES, small_settings

CHUNK = FRAMES * 2048
Signal = NDArray[np.float64]
Write = Callable[[Path], object]


def music(seconds: float = 3.5, rate: int = SAMPLE_RATE, channels: int = 2) -> Signal:
    """A tone and noise, (S, channels), another noise in each channel; peak under 0.8."""
    time_s = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (len(time_s), channels))
    return noise + 0.4 * np.sin(2 * np.pi * 440 * time_s)[:, None]


def saved(audio: Signal, rate: int = SAMPLE_RATE, subtype: str | None = "FLOAT") -> Write:
    return lambda path: soundfile.write(path, audio, rate, subtype=subtype)


def made(*arguments: str) -> Write:
    """By ffmpeg, out of `music` and the inputs that `arguments` name."""

    def write(path: Path) -> None:
        source = path.parent / "source.wav"
        soundfile.write(source, music(), SAMPLE_RATE)
        done = run_ffmpeg(["-i", str(source), *arguments, str(path)])
        assert done.returncode == 0, done.stderr

    return write


def changed(write: Write, change: Callable[[bytes], bytes]) -> Write:
    def write_changed(path: Path) -> None:
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return write_changed


def stating(data_bytes: int) -> Callable[[bytes], bytes]:
    """A WAV whose header states another length of its data."""

    def change(content: bytes) -> bytes:
        place = content.index(b"data") + 4
        return content[:place] + struct.pack("<I", data_bytes) + content[place + 4 :]

    return change


def followed_by(tail: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content + tail


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def holed(content: bytes) -> bytes:
    return content[: len(content) // 2] + content[len(content) // 2 + 999 :]


def through(path: Path, **sections: Any) -> Outcome:
    """The song at `path` through all stages."""
    settings = small_settings(path.parent, **sections)
    song = Song("0" * 20, path.stem, url=path.as_uri())
    parts = Parts(settings)
    [encoded] = stages.encode_songs(stages.separate_songs(acquire_songs([song], parts), parts), parts)
    return encoded


def audio_of(path: Path) -> Audio:
    [wav] = path.parent.glob("data/raw/*/audio.wav")
    return read_wav(wav)


def latents_of(outcome: Outcome, pairs: int) -> dict[str, NDArray[np.float16]]:
    assert outcome.artifact
    latents = load_file(outcome.artifact.path("latents.safetensors"))
    for stream in ("vocal", "accompaniment"):
        assert latents[stream].shape == (pairs, 64, FRAMES)
        assert np.isfinite(latents[stream]).all()
    return latents


def assert_stems_sum_to(mix: Audio, path: Path, outcome: Outcome) -> None:
    [folder] = {stem.parent for stem in path.parent.glob("data/stems/*/*.flac")}
    vocals, accompaniment = stages.read_stems(folder, outcome.record["stems_scale"])
    step = 2**-23 / outcome.record["stems_scale"]
    assert np.abs(vocals.astype(float) + accompaniment - mix).max() <= step


CLICK = np.zeros((5 * SAMPLE_RATE, 2))
CLICK[3 * SAMPLE_RATE] = 1.0
HALF_DENORMAL = music(7.0)
HALF_DENORMAL[: 3 * SAMPLE_RATE] = 1e-40
COLOUR = ("-f", "lavfi", "-i", "color=d=5:s=16x16:r=5")
JUNK = np.random.default_rng(1).bytes(1500)

# Name, what the file's audio is, how exactly, and the file.
GOOD: list[tuple[str, Signal, float, Write]] = [
    ("mono.wav", music(channels=1).repeat(2, axis=1), 0.0, saved(music(channels=1))),
    ("8 bits.wav", music(), 2**-7, saved(music(), subtype="PCM_U8")),
    ("square at full scale.wav", np.sign(music()), 0.0, saved(np.sign(music()))),
    ("over full scale.wav", 2.0 * music(), 0.0, saved(2.0 * music())),
    ("antiphase.wav", music(channels=1) * [1, -1], 0.0, saved(music(channels=1) * [1, -1])),
    ("one click.wav", CLICK, 0.0, saved(CLICK)),
    ("denormals.wav", HALF_DENORMAL, 0.0, saved(HALF_DENORMAL)),
    ("one chunk.flac", music()[:CHUNK], 2**-15, saved(music()[:CHUNK], subtype="PCM_16")),
    ("a sample over.flac", music()[: CHUNK + 1], 2**-15, saved(music()[: CHUNK + 1], subtype="PCM_16")),
    ("tail.wav", music(), 0.0, changed(saved(music()), followed_by(JUNK))),
    ("tail.flac", music(), 2**-15, changed(saved(music(), subtype="PCM_16"), followed_by(JUNK))),
    ("shorter header.wav", music()[:-99], 0.0, changed(saved(music()), stating(8 * (len(music()) - 99)))),
    ("film.mp4", music(), 2**-15, made(*COLOUR, "-map", "0:a", "-map", "1:v", "-c:a", "alac")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected", "step", "write"), GOOD, ids=[case[0] for case in GOOD])
def test_an_unusual_song_becomes_latents(
    name: str, expected: Signal, step: float, write: Write, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    outcome = through(path)
    assert (outcome.status, outcome.message) == (Status.OK, "")
    audio = audio_of(path)
    np.testing.assert_allclose(audio, expected.T.astype(np.float32), rtol=0, atol=step)
    assert outcome.record["duration_s"] == len(expected) / SAMPLE_RATE
    assert outcome.record["peak"] == pytest.approx(np.abs(expected).max(), rel=1e-6, abs=step + 1e-4)
    assert outcome.record["clipped_share"] == pytest.approx(np.mean(np.abs(expected) >= 1.0), abs=step)
    latents_of(outcome, len(expected) // CHUNK)
    assert_stems_sum_to(audio, path, outcome)


@pytest.mark.parametrize("rate", [8_000, 96_000])
def test_another_rate_keeps_pitch_and_level(rate: int, tmp_path: Path) -> None:
    time_s = np.arange(4 * rate) / rate
    saved(0.4 * np.sin(2 * np.pi * 440 * time_s), rate)(tmp_path / "song.wav")
    outcome = through(tmp_path / "song.wav")
    audio = audio_of(tmp_path / "song.wav")
    middle = np.arange(SAMPLE_RATE, 3 * SAMPLE_RATE)
    expected = 0.4 * np.sin(2 * np.pi * 440 * middle / SAMPLE_RATE)
    assert np.abs(audio[:, middle] - expected).max() < 1e-3
    latents_of(outcome, 1)


def test_six_channels_are_mixed_down_to_two(tmp_path: Path) -> None:
    six = 0.2 * music(channels=6)
    saved(six)(tmp_path / "song.wav")
    latents_of(through(tmp_path / "song.wav"), 1)
    left, right, centre, _, rear_left, rear_right = six.T
    # ITU-R BS.775: centre and rear at -3 dB, the low-frequency channel left out.
    expected = np.stack([left, right]) + np.sqrt(0.5) * (centre + np.stack([rear_left, rear_right]))
    assert np.abs(audio_of(tmp_path / "song.wav") - expected).max() < 1e-6


def test_channels_in_antiphase_are_silence_to_a_mono_codec(tmp_path: Path) -> None:
    saved(music(channels=1) * [1, -1])(tmp_path / "song.wav")
    outcome = through(tmp_path / "song.wav")
    for latents in latents_of(outcome, 1).values():
        np.testing.assert_array_equal(latents, np.float16(np.log(FLOOR)))
    [chunk] = outcome.record["chunks"]
    assert chunk["mix_peak"] == pytest.approx(np.abs(music(channels=1)[:CHUNK]).max(), abs=1e-4)
    assert -60 < chunk["vocal_rms_db"] < 0


@pytest.mark.parametrize("name", ["song.mp3", "song.ogg"])
def test_a_tail_of_something_else_costs_a_lossy_song_nothing(name: str, tmp_path: Path) -> None:
    for folder in ("whole", "tail"):
        (tmp_path / folder).mkdir()
    whole, tail = tmp_path / "whole" / name, tmp_path / "tail" / name
    saved(music(), subtype=None)(whole)
    tail.write_bytes(whole.read_bytes() + JUNK)
    latents_of(through(whole), 1)
    latents_of(through(tail), 1)
    samples = audio_of(whole).shape[1]
    np.testing.assert_array_equal(audio_of(tail)[:, :samples], audio_of(whole))
    assert audio_of(tail).shape[1] - samples <= 1152  # bytes that look like one more frame of an MP3


BAD: list[tuple[str, str, Status, Write]] = [
    ("NaN.wav", "download", Status.NOT_FINITE, saved(np.where(music() > 0.69, np.nan, music()))),
    ("infinite.wav", "download", Status.NOT_FINITE, saved(np.where(music() > 0.69, np.inf, music()))),
    ("silence.flac", "separate", Status.SILENT, saved(0 * music(), subtype="PCM_16")),
    ("denormals.wav", "separate", Status.SILENT, saved(1e-39 * music())),
    ("a sample short.wav", "encode", Status.TOO_SHORT, saved(music()[: CHUNK - 1])),
    ("empty.wav", "download", Status.DECODE_FAILED, lambda path: path.write_bytes(b"")),
    ("text.mp3", "download", Status.DECODE_FAILED, lambda path: path.write_text("la la la\n" * 500)),
    ("header.wav", "download", Status.DECODE_FAILED, saved(music()[:0])),
    ("picture.mp4", "download", Status.DECODE_FAILED, made(*COLOUR, "-map", "1:v")),
    ("longer header.wav", "download", Status.DECODE_FAILED, changed(saved(music()), stating(2**22))),
    ("cut.wav", "download", Status.DECODE_FAILED, changed(saved(music()), cut)),
    ("cut.flac", "download", Status.DECODE_FAILED, changed(saved(music(), subtype="PCM_16"), cut)),
    ("cut.mp3", "download", Status.DECODE_FAILED, changed(made("-b:a", "128k"), cut)),
    ("cut.webm", "download", Status.DECODE_FAILED, changed(made("-c:a", "libopus"), cut)),
    ("hole.ogg", "download", Status.DECODE_FAILED, changed(made("-c:a", "libvorbis"), holed)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "stage", "status", "write"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_song_ends_with_its_status(
    name: str, stage: str, status: Status, write: Write, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    outcome = through(path)
    assert (outcome.stage, outcome.status, outcome.artifact) == (stage, status, None)
    assert outcome.message
    assert str(tmp_path) not in outcome.message
    left = [file for file in (tmp_path / "data").rglob("*.*") if file.suffix in {".tmp", ".part", ".wav"}]
    assert [file.name for file in left] == ([] if stage == "download" else ["audio.wav"])


def test_three_seconds_hold_no_chunk_of_1024_frames(tmp_path: Path) -> None:
    saved(music(3.0))(tmp_path / "song.wav")
    outcome = through(tmp_path / "song.wav", popdb={"chunk_frames": 1024})
    assert (outcome.stage, outcome.status) == ("encode", Status.TOO_SHORT)
    assert outcome.message == "3.00 s of audio, one chunk needs 47.55 s"


@pytest.mark.parametrize(("over", "status"), [(0, Status.OK), (1, Status.TOO_LONG)])
def test_the_longest_song_has_15_minutes(over: int, status: Status, tmp_path: Path) -> None:
    path = tmp_path / "song.flac"
    soundfile.write(path, np.zeros(900 * SAMPLE_RATE + over), SAMPLE_RATE)
    [downloaded] = acquire_songs([Song("0" * 20, "song", url=path.as_uri())], Parts(small_settings(tmp_path)))
    assert (downloaded.stage, downloaded.status) == ("download", status)


@pytest.mark.slow
def test_fifteen_minutes_become_latents(tmp_path: Path) -> None:
    saved(music(900.0, 8_000, channels=1), 8_000, "PCM_16")(tmp_path / "song.flac")
    latents_of(through(tmp_path / "song.flac"), 900 * SAMPLE_RATE // CHUNK)
