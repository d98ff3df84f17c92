import errno
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import samuel.audio
from samuel.audio import (
    SAMPLE_RATE,
    CutShortError,
    channels_of,
    dbfs,
    decode_to_wav,
    load_audio,
    read_blocks,
    read_wav,
    run_ffmpeg,
    write_wav,
)
from samuel.errors import InputError


def tone(rate: int, seconds: float = 1.0, hz: float = 441.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_wav_round_trip_is_exact(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    write_wav(tmp_path / "a.wav", audio)
    assert np.array_equal(read_wav(tmp_path / "a.wav"), audio)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (48_000, 2), (44_100, 2)])
def test_any_file_becomes_44100_stereo(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    path = tmp_path / f"-a:b %20#? \N{GUITAR}.{suffix}"
    soundfile.write(path, np.stack([tone(rate)] * channels, axis=1), rate)
    audio = load_audio(path, tmp_path)
    assert audio.shape[0] == 2
    assert audio.dtype == np.float32
    assert abs(audio.shape[1] / SAMPLE_RATE - 1.0) < 0.06
    spectrum = np.abs(np.fft.rfft(audio[0, :SAMPLE_RATE]))
    assert abs(int(spectrum.argmax()) * SAMPLE_RATE / min(audio.shape[1], SAMPLE_RATE) - 441.0) < 3.0


def noise(samples: int, channels: int) -> np.ndarray:
    return np.random.default_rng(channels).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def convert(source: Path, target: Path, *arguments: str) -> None:
    done = run_ffmpeg(["-i", str(source), *arguments, "-y", str(target)])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_24", "PCM_U8"])
def test_mono_is_in_both_channels_at_its_own_level(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "mono.wav"
    audio = noise(44_100, 1)
    audio[100:103, 0] = [1.4, 1e-40, -1.4]
    soundfile.write(path, audio, SAMPLE_RATE, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(load_audio(path, tmp_path), [expected, expected])


@pytest.mark.parametrize("layout", ["stereo", "2.1", "3.0", "quad", "5.0", "5.1", "5.1(side)", "7.1"])
@pytest.mark.parametrize(("rate", "subtype"), [(44_100, "FLOAT"), (48_000, "PCM_16")])
def test_more_channels_are_mixed_as_ffmpeg_does(tmp_path: Path, layout: str, rate: int, subtype: str) -> None:
    channels = {"stereo": 2, "2.1": 3, "3.0": 3, "quad": 4, "5.0": 5, "7.1": 8}.get(layout, 6)
    soundfile.write(tmp_path / "plain.wav", noise(rate // 4, channels), rate, subtype=subtype)
    codec = {"FLOAT": "pcm_f32le", "PCM_16": "pcm_s16le"}[subtype]
    path = tmp_path / "song.wav"
    convert(tmp_path / "plain.wav", path, "-af", f"channelmap=channel_layout={layout}", "-c:a", codec)
    convert(path, tmp_path / "two.wav", "-ar", "44100", "-ac", "2", "-c:a", "pcm_f32le")
    np.testing.assert_array_equal(load_audio(path, tmp_path), read_wav(tmp_path / "two.wav"))


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 9, 24, 64, 65, 200])
@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_channels_are_counted_whatever_their_number(tmp_path: Path, channels: int, subtype: str) -> None:
    path = tmp_path / "a b:%20.wav"
    soundfile.write(path, noise(4_410, channels), SAMPLE_RATE, subtype=subtype)
    assert channels_of(path) == channels


def test_channels_are_those_of_the_first_audio_stream(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "six.wav", noise(44_100, 6), SAMPLE_RATE)
    soundfile.write(tmp_path / "one.wav", noise(44_100, 1), SAMPLE_RATE)
    second = ["-f", "lavfi", "-i", "color=d=1:s=16x16:r=5", "-i", str(tmp_path / "one.wav")]
    maps = ["-map", "1:v", "-map", "0:a", "-map", "2:a"]
    convert(tmp_path / "six.wav", tmp_path / "film.mkv", *second, *maps, "-c:a", "flac")
    assert channels_of(tmp_path / "film.mkv") == 6
    (tmp_path / "text.wav").write_text("Stream #0:0: Audio: pcm, 44100 Hz, 9 channels\n")
    assert channels_of(tmp_path / "text.wav") is None


def test_blocks_in_a_row_are_the_file(tmp_path: Path) -> None:
    audio = noise(1_000, 2).T
    write_wav(tmp_path / "a.wav", audio)
    blocks = list(read_blocks(tmp_path / "a.wav", 300))
    assert [block.shape for block in blocks] == [(2, 300), (2, 300), (2, 300), (2, 100)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), audio)
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_by_ffmpegs_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\nexit {256 - number}\n")
    program.chmod(0o755)
    monkeypatch.setattr(samuel.audio, "ffmpeg", lambda: str(program))
    with pytest.raises(OSError, match=f"Errno {number}"):
        run_ffmpeg([])


def test_what_follows_the_audio_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "song.flac"
    soundfile.write(path, noise(44_100, 2), SAMPLE_RATE)
    whole = load_audio(path, tmp_path)
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    np.testing.assert_array_equal(load_audio(path, tmp_path), whole)


@pytest.mark.parametrize("cover", [False, True])
def test_a_file_that_breaks_off_is_refused_by_the_duration_it_states(tmp_path: Path, cover: bool) -> None:
    soundfile.write(tmp_path / "song.wav", noise(4 * SAMPLE_RATE, 2), SAMPLE_RATE)
    png = tmp_path / "cover.png"
    convert(tmp_path / "song.wav", png, "-f", "lavfi", "-i", "color=s=16x16", "-map", "1:v", "-frames:v", "1")
    pictured = ["-i", str(png), "-map", "0:a", "-map", "1:v", "-disposition:v", "attached_pic"]
    path = tmp_path / "song.mp3"
    convert(tmp_path / "song.wav", path, *(pictured if cover else []))
    content = path.read_bytes()
    assert load_audio(path, tmp_path).shape[1] > 3.9 * SAMPLE_RATE
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CutShortError, match=r"song\.mp3: breaks off \([12]\.\d\d s of the [34]\.\d+ s that it"
    ):
        decode_to_wav(path, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()
    decode_to_wav(path, tmp_path / "out.wav", 1.0)  # it holds as much as is wanted
    assert read_wav(tmp_path / "out.wav").shape == (2, SAMPLE_RATE)


def test_the_pictures_of_a_film_may_outlast_its_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", noise(SAMPLE_RATE, 2), SAMPLE_RATE)
    pictures = ["-f", "lavfi", "-i", "color=d=4:s=16x16:r=5", "-map", "0:a", "-map", "1:v"]
    convert(tmp_path / "song.wav", tmp_path / "film.mkv", *pictures, "-c:a", "flac")
    expected, _ = soundfile.read(tmp_path / "song.wav", dtype="float32")
    np.testing.assert_array_equal(load_audio(tmp_path / "film.mkv", tmp_path), expected.T)


def test_no_title_speaks_for_ffmpeg(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", noise(4 * SAMPLE_RATE, 2), SAMPLE_RATE)
    lines = "No space left on device\n[info]   Duration: 00:00:00.50, \n[error] No space left on device"
    path = tmp_path / "No space left on device.flac"
    convert(tmp_path / "song.wav", path, "-metadata", f"title={lines}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"not readable as audio \((?!No space)"):
        decode_to_wav(path, tmp_path / "out.wav")


@pytest.mark.parametrize("content", [b"", b"<html>not audio</html>", b"RIFF\x00\x00\x00\x00WAVE"])
def test_no_audio_is_named_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"song\.wav: not readable as audio \((?!.*0x)"):
        decode_to_wav(path, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.wav: no such file"):
        load_audio(tmp_path / "absent.wav", tmp_path)


def test_a_playlist_in_disguise_reaches_no_network(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n")
    with pytest.raises(InputError, match="not readable as audio"):
        decode_to_wav(path, tmp_path / "out.wav")


def test_another_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 1)), 8_000)
    with pytest.raises(InputError, match="8000 Hz, 1 channels"):
        read_wav(tmp_path / "a.wav")


def test_level_of_a_sine_and_of_silence() -> None:
    assert dbfs(np.stack([tone(44_100)] * 2)) == pytest.approx(-9.03, abs=0.01)
    assert dbfs(np.zeros((2, 10), dtype=np.float32)) == pytest.approx(-120.0)


def test_the_same_samples_give_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    for subtype in ("FLOAT", "PCM_24"):
        write_wav(tmp_path / "first.wav", audio, subtype)
        time.sleep(1.1)
        write_wav(tmp_path / "second.wav", audio, subtype)
        assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "second.wav").read_bytes()


@pytest.mark.parametrize("name", ["list.ffconcat", "list.wav", "list.m3u8"])
def test_a_playlist_dressed_as_audio_reads_no_neighbour(name: str, tmp_path: Path) -> None:
    write_wav(tmp_path / "neighbour.wav", np.full((2, 44_100), 0.1, dtype=np.float32))
    scripts = {
        "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nneighbour.wav\n#EXT-X-ENDLIST\n",
    }
    script = scripts.get(name.split(".")[1], "ffconcat version 1.0\nfile 'neighbour.wav'\n")
    (tmp_path / name).write_text(script)
    with pytest.raises(InputError, match="not readable as audio"):
        decode_to_wav(tmp_path / name, tmp_path / "decoded.wav")
    assert channels_of(tmp_path / name) is None
