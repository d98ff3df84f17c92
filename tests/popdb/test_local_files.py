"""Files at hand, read by real yt-dlp."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import read_wav
from samuel.errors import SongError
from samuel.popdb import download as fetch
from samuel.popdb.songs import Song
from samuel.popdb.status import Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import Answer, LocalSite, encoded, sine


def test_file_url_gives_the_whole_song_and_nothing_else(tmp_path: Path, workplace: Workplace) -> None:
    audio = sine(3.0)
    audio[100:110] = 1.25
    path = tmp_path / "My song.wav"
    soundfile.write(path, audio, 44_100, subtype="FLOAT")
    record = workplace.read(path)
    np.testing.assert_array_equal(read_wav(workplace.audio()), audio.T)
    assert workplace.names() == ["audio.wav", "entry.json"]
    assert soundfile.info(workplace.audio()).subtype == "FLOAT"
    assert record.pop("fingerprint")
    assert record.pop("audio_sha256")
    assert record == {
        "video_id": None,
        "video_title": None,
        "channel": None,
        "duration_s": 3.0,
        "peak": 1.25,
        "clipped_share": 10 / len(audio),
    }


@pytest.mark.parametrize(
    ("kind", "suffix"), [("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3"), ("AIFF", "aiff")]
)
def test_mono_at_22_khz_is_converted(kind: str, suffix: str, tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / f"song.{suffix}"
    path.write_bytes(encoded(sine(2.0, 22_050, channels=1), 22_050, kind))
    record = workplace.read(path)
    audio = read_wav(workplace.audio())
    assert record["duration_s"] == pytest.approx(2.0, abs=0.1)
    assert record["duration_s"] == audio.shape[1] / 44_100
    np.testing.assert_array_equal(audio[0], audio[1])
    middle = audio[0, 22_050:66_150]
    assert int(np.argmax(np.abs(np.fft.rfft(middle)))) == 440  # one-hertz bins: same pitch, same speed


@pytest.mark.parametrize(
    "name",
    [
        "a: b",
        "100%41",
        "-rf",
        "--exec echo",
        "two\nlines",
        "\N{GUITAR}",
        "no #1",
        "why?",
        "a%(id)s",
        "~",
        "$HOME",
    ],
)
def test_hostile_file_names_are_read(name: str, tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / f"{name}.flac"
    path.write_bytes(encoded(sine(1.0)))
    assert workplace.read(path)["duration_s"] == 1.0
    assert workplace.names() == ["audio.wav", "entry.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on this system")
def test_file_name_that_is_not_utf8_fails_alone(tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.flac")
    path.write_bytes(encoded(sine(1.0)))
    song = Song("0" * 20, "caf", url=path.as_uri())
    [outcome] = workplace.outcomes(song)  # urllib reads the escapes as UTF-8
    assert outcome.status == Status.UNAVAILABLE
    outcome.message.encode()


@pytest.mark.parametrize("content", [b"", b"<html><title>Not found</title></html>", b"\x00\x01" * 5000])
def test_what_is_no_audio_fails_to_decode(content: bytes, tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(content)
    assert workplace.failure(lambda: workplace.read(path)).status == Status.DECODE_FAILED


def test_nothing_is_fetched_for_a_playlist_dressed_up_as_audio_or_a_link(
    site: LocalSite, tmp_path: Path, workplace: Workplace
) -> None:
    site.answers["/secret"] = Answer(encoded(sine(1.0)))
    path = tmp_path / "song.flac"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{site.base}/secret\n#EXT-X-ENDLIST\n")
    assert workplace.failure(lambda: workplace.read(path)).status == Status.DECODE_FAILED
    [link] = workplace.outcomes(Song("1" * 20, "x", url=f"{site.base}/secret"))
    assert link.status == Status.UNAVAILABLE
    assert site.requests == []


def test_file_that_is_gone_is_unavailable(tmp_path: Path, workplace: Workplace) -> None:
    error = workplace.failure(lambda: workplace.read(tmp_path / "gone.wav"))
    assert (error.status, "gone.wav" in str(error)) == (Status.UNAVAILABLE, True)


def test_file_over_the_longest_duration_is_too_long(tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / "song.flac"
    path.write_bytes(encoded(sine(2.0)))
    error = workplace.failure(lambda: workplace.read(path, max_duration_s=1.9))
    assert error.status == Status.TOO_LONG
    assert workplace.read(path, max_duration_s=2.0)["duration_s"] == 2.0  # the limit was raised: tried again
    assert workplace.read(path, max_duration_s=900)["duration_s"] == 2.0
    [outcome] = workplace.outcomes(Song("0" * 20, "song", url=path.as_uri()), max_duration_s=1.9)
    assert (outcome.status, outcome.artifact) == (Status.TOO_LONG, None)  # fetched under a larger limit


def test_wav_beyond_its_format_is_too_long(tmp_path: Path) -> None:
    wav = tmp_path / "audio.wav"
    wav.write_bytes(encoded(sine(1.0), kind="WAV"))
    assert fetch.measure(wav)["duration_s"] == 1.0
    os.truncate(wav, 2**32)
    with pytest.raises(SongError) as caught:
        fetch.measure(wav)
    assert caught.value.status == Status.TOO_LONG


def test_files_wait_for_no_turn(tmp_path: Path, workplace: Workplace) -> None:
    songs = [Song(name, name, url=(tmp_path / f"{name}.flac").as_uri()) for name in ("one", "two")]
    for song in songs:
        (tmp_path / f"{song.title}.flac").write_bytes(encoded(sine(1.0)))
    started = time.monotonic()
    outcomes = workplace.outcomes(*songs, download_interval_s=600, search_interval_s=600, workers=1)
    assert [outcome.ok for outcome in outcomes] == [True, True]
    assert time.monotonic() - started < 60
