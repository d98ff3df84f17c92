import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import (
    SAMPLE_RATE,
    Audio,
    CutShortError,
    TooLongError,
    decode_to_wav,
    read_blocks,
    read_wav,
    run_ffmpeg,
    si_sdr_db,
    write_wav,
)
from samuel.errors import InputError
from tests.decoding import load_audio, write_ten_hours


def noise(samples: int, channels: int) -> np.ndarray:
    return np.random.default_rng(channels).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def convert(source: Path, target: Path, *arguments: str) -> None:
    done = run_ffmpeg(["-i", str(source), *arguments, "-y", str(target)])
    assert done.returncode == 0, done.stderr


def wav_of(channels: int, rate: int) -> Callable[[Path], object]:
    """A WAV with such a header, and 36,000 stereo samples."""
    frame = 2 * channels & 0xFFFF
    form = struct.pack("<HHIIHH", 1, channels, rate, frame * rate & 0xFFFFFFFF, frame, 16)
    header = struct.pack("<4sI4s4sI16s4sI", b"RIFF", 144_036, b"WAVE", b"fmt ", 16, form, b"data", 144_000)
    return lambda path: path.write_bytes(header + b"\1\0" * 72_000)


# What is read.


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_file_becomes_44100_stereo(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"-a:b %20#? \N{GUITAR}.{suffix}"
    for rate, channels in ((8_000, 1), (48_000, 2)):
        tone = (0.5 * np.sin(2 * np.pi * 441 * np.arange(rate) / rate)).astype(np.float32)
        soundfile.write(path, np.stack([tone] * channels, axis=1), rate)
        audio = load_audio(path, tmp_path)
        assert (audio.shape[0], audio.dtype) == (2, np.float32)
        assert abs(audio.shape[1] / SAMPLE_RATE - 1.0) < 0.06
        spectrum = np.abs(np.fft.rfft(audio[0, :SAMPLE_RATE]))
        assert abs(int(spectrum.argmax()) * SAMPLE_RATE / min(audio.shape[1], SAMPLE_RATE) - 441.0) < 3.0


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_24"])
def test_mono_is_in_both_channels_at_its_own_level(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "mono.wav"
    audio = noise(44_100, 1)
    audio[100:103, 0] = [1.4, 1e-40, -1.4]
    soundfile.write(path, audio, SAMPLE_RATE, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(load_audio(path, tmp_path), [expected, expected])


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("2.1", 3), ("5.1(side)", 6), ("7.1", 8)])
def test_more_channels_are_mixed_as_ffmpeg_does(tmp_path: Path, layout: str, channels: int) -> None:
    soundfile.write(tmp_path / "plain.wav", noise(12_000, channels), 48_000, subtype="FLOAT")
    path = tmp_path / "song.wav"
    convert(tmp_path / "plain.wav", path, "-af", f"channelmap=channel_layout={layout}", "-c:a", "pcm_f32le")
    convert(path, tmp_path / "two.wav", "-ar", "44100", "-ac", "2", "-c:a", "pcm_f32le")
    np.testing.assert_array_equal(load_audio(path, tmp_path), read_wav(tmp_path / "two.wav"))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0])  # by ffmpeg, by sox, by others
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "whole.wav", noise(50_001, 2), SAMPLE_RATE)
    piped = run_ffmpeg(["-i", str(tmp_path / "whole.wav"), "-f", "wav", "-"]).stdout
    assert piped.count(b"\xff" * 4) == 2  # sizes of the file and of its data
    (tmp_path / "piped.wav").write_bytes(piped.replace(b"\xff" * 4, struct.pack("<I", size)))
    expected = load_audio(tmp_path / "whole.wav", tmp_path)
    np.testing.assert_array_equal(load_audio(tmp_path / "piped.wav", tmp_path), expected)


# What is damaged, or none, or too much.


@pytest.mark.parametrize("stated_s", [36_000, 0, 1])
def test_hours_of_silence_take_seconds(tmp_path: Path, stated_s: int) -> None:
    path, target = write_ten_hours(tmp_path / "long.flac", stated_s), tmp_path / "out.wav"
    assert path.stat().st_size < 2**20
    started = time.monotonic()
    with pytest.raises(TooLongError, match=r"long\.flac: lasts over 60 s"):
        decode_to_wav(path, target, 60.0)
    with pytest.raises(TooLongError, match=r"long\.flac: lasts over 10800 s"):
        decode_to_wav(path, target)
    assert not target.exists()
    if stated_s == 36_000:
        with pytest.raises(TooLongError, match=r"long\.flac: lasts over 10800 s"):
            decode_to_wav(path, target, 60.0, cut=True)
    else:
        decode_to_wav(path, target, 60.0, cut=True)
        assert read_wav(target).shape == (2, 60 * SAMPLE_RATE)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "no regular file"),
        (Path.mkdir, "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to(path), "no such file"),
        (wav_of(65_535, SAMPLE_RATE), "not readable as audio"),
        (wav_of(2, 2**31), "not readable as audio"),
        (wav_of(2, 1), "lasts over 60 s"),  # ten hours of it
    ],
)
def test_what_is_no_audio_of_this_world_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "song.wav")
    started = time.monotonic()
    with pytest.raises(InputError, match=rf"song\.wav: {words}"):
        decode_to_wav(tmp_path / "song.wav", tmp_path / "out.wav", 60.0)
    assert time.monotonic() - started < 5.0
    assert not (tmp_path / "out.wav").exists()


def test_a_file_that_breaks_off_is_refused_by_the_duration_it_states(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", noise(4 * SAMPLE_RATE, 2), SAMPLE_RATE)
    path = tmp_path / "song.mp3"
    convert(tmp_path / "song.wav", path)
    content = path.read_bytes()
    assert load_audio(path, tmp_path).shape[1] > 3.9 * SAMPLE_RATE
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CutShortError, match=r"song\.mp3: breaks off \([12]\.\d\d s of the [34]\.\d+ s that"):
        decode_to_wav(path, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()
    decode_to_wav(path, tmp_path / "out.wav", 1.0, cut=True)  # it holds as much as is wanted
    assert read_wav(tmp_path / "out.wav").shape == (2, SAMPLE_RATE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("song.wav", b"<html>not audio</html>"),
        ("song.mp3", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nneighbour.wav\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile 'neighbour.wav'\n"),
        ("song.m4a", b"ffconcat version 1.0\nfile 'neighbour.wav'\n"),
        ("song.ogg", b'<?xml version="1.0"?><MPD><Period><BaseURL>neighbour.wav</BaseURL></Period></MPD>'),
    ],
)
def test_no_audio_is_named_reads_no_neighbour_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes
) -> None:
    write_wav(tmp_path / "neighbour.wav", np.full((2, 44_100), 0.1, dtype=np.float32))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: not readable as audio \((?!.*0x)"):
        decode_to_wav(tmp_path / name, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


# Files of our own.


def test_a_wav_of_ours_comes_back_whole_in_blocks_and_with_the_same_bytes(tmp_path: Path) -> None:
    audio = noise(1_000, 2).T
    for subtype in ("PCM_24", "FLOAT"):
        write_wav(tmp_path / "first.wav", audio, subtype)
        time.sleep(1.1)  # libsndfile would write the time of day
        write_wav(tmp_path / "second.wav", audio, subtype)
        assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "second.wav").read_bytes()
    np.testing.assert_array_equal(read_wav(tmp_path / "first.wav"), audio)
    blocks = list(read_blocks(tmp_path / "first.wav", 300))
    assert [block.shape for block in blocks] == [(2, 300), (2, 300), (2, 300), (2, 100)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), audio)
    soundfile.write(tmp_path / "other.wav", np.zeros((100, 1)), 8_000)
    with pytest.raises(InputError, match="8000 Hz, 1 channels"):
        read_wav(tmp_path / "other.wav")


# Levels. Over whole periods, tones of different frequencies are orthogonal.

TIME_S = np.arange(SAMPLE_RATE) / SAMPLE_RATE
TONE, OTHER = (np.tile(np.sin(2 * np.pi * hz * TIME_S), (2, 1)).astype(np.float32) for hz in (220.0, 300.0))


@pytest.mark.parametrize(("level", "expected_db"), [(0.1, 20.0), (1.0, 0.0), (10.0, -20.0)])
def test_si_sdr_is_the_ratio_to_what_is_orthogonal_at_any_scale(level: float, expected_db: float) -> None:
    for gain in (1.0, 0.01, -3.0):
        estimate: Audio = (gain * (TONE + level * OTHER)).astype(np.float32)
        assert si_sdr_db(estimate, TONE) == pytest.approx(expected_db, abs=1e-3)
    # (s, 0) is (s, s)/2, which is the reference, and (s, -s)/2, which is as strong: no balance is mended.
    one_side: Audio = (TONE * np.array([[1.0], [0.0]])).astype(np.float32)
    assert si_sdr_db(one_side, TONE) == pytest.approx(0.0, abs=1e-9)
