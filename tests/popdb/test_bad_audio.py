"""Whatever a folder may hold, from the file to its latents or its status, by the code that a run uses."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from safetensors.numpy import load_file

from samuel.artifacts import digest, sha256
from samuel.audio import SAMPLE_RATE, Audio, read_wav, run_ffmpeg
from samuel.codecs.mel import FLOOR
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from tests.decoding import write_ten_hours
from tests.popdb.latents import FRAMES, small_settings

CHUNK = FRAMES * 2048
Signal = NDArray[np.float64]
Write = Callable[[Path], object]


def music(seconds: float = 3.5, channels: int = 2) -> Signal:
    """A tone and noise, (S, channels), another noise in each channel; peak under 0.8."""
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
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


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


ANTIPHASE = music(channels=1) * [1, -1]

# What the file's audio is, how exactly, and the file.
GOOD: dict[str, tuple[Signal, float, Write]] = {
    "over full scale.wav": (2.0 * music(), 0.0, saved(2.0 * music())),
    "antiphase.wav": (ANTIPHASE, 0.0, saved(ANTIPHASE)),
}
BAD: dict[str, tuple[str, Status, Write]] = {
    "NaN.wav": ("download", Status.NOT_FINITE, saved(np.where(music() > 0.69, np.nan, music()))),
    "silence.flac": ("separate", Status.SILENT, saved(0 * music(), subtype="PCM_16")),
    "a sample short.wav": ("encode", Status.TOO_SHORT, saved(music()[: CHUNK - 1])),
    "text.mp3": ("download", Status.DECODE_FAILED, lambda path: path.write_text("la la la\n" * 500)),
    "longer header.wav": ("download", Status.DECODE_FAILED, changed(saved(music()), stating(2**22))),
    "ten hours.flac": ("download", Status.TOO_LONG, write_ten_hours),
    "cut.webm": ("download", Status.DECODE_FAILED, changed(made("-c:a", "libopus"), cut)),
}


def song_of(path: Path) -> Song:
    return Song(digest(path.name), path.stem, url=path.as_uri())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("songs")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    """Every song through all stages, by its file's name."""
    for name, write in {name: case[-1] for name, case in (GOOD | BAD).items()}.items():
        write(folder / name)
    parts = Parts(small_settings(folder))
    songs = [song_of(folder / name) for name in GOOD | BAD]
    encoded = stages.encode_songs(stages.separate_songs(acquire_songs(songs, parts), parts), parts)
    return dict(zip(GOOD | BAD, encoded, strict=True))


def audio_of(outcome: Outcome, folder: Path) -> Audio:
    [wav] = [
        wav
        for wav in (folder / "data" / "raw").glob("*/audio.wav")
        if sha256(wav) == outcome.record["audio_sha256"]
    ]
    return read_wav(wav)


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_song_becomes_latents(name: str, outcomes: dict[str, Outcome], folder: Path) -> None:
    outcome, (expected, step, _) = outcomes[name], GOOD[name]
    assert (outcome.status, outcome.message) == (Status.OK, "")
    audio = audio_of(outcome, folder)
    np.testing.assert_allclose(audio, expected.T.astype(np.float32), rtol=0, atol=step)
    assert outcome.record["duration_s"] == len(expected) / SAMPLE_RATE
    assert outcome.record["peak"] == pytest.approx(np.abs(expected).max(), rel=1e-6, abs=step + 1e-4)
    assert outcome.record["clipped_share"] == pytest.approx(np.mean(np.abs(expected) >= 1.0), abs=step)
    assert outcome.artifact
    for stream in load_file(outcome.artifact.path("latents.safetensors")).values():
        assert stream.shape == (len(expected) // CHUNK, 64, FRAMES)
        assert np.isfinite(stream).all()
        if name == "antiphase.wav":  # silence to a mono codec
            np.testing.assert_array_equal(stream, np.float16(np.log(FLOOR)))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_song_ends_with_its_status(name: str, outcomes: dict[str, Outcome], folder: Path) -> None:
    outcome, (stage, status, _) = outcomes[name], BAD[name]
    assert (outcome.stage, outcome.status, outcome.artifact) == (stage, status, None)
    assert outcome.message
    assert str(folder) not in outcome.message
