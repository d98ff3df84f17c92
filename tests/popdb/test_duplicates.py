"""Recordings told apart: real codecs on real and synthetic songs, planted copies in random codes."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import SAMPLE_RATE, Audio, decode_to_wav, ffmpeg, write_wav
from samuel.popdb.duplicates import Codes, fingerprint, recordings
from samuel.synthetic.song import compose

REAL_SONG = Path(__file__).parents[3] / "shared" / "data" / "songs" / "lets_go_fishin.ogg"
LENGTH_S = 30.0

Render = Callable[[Audio], Codes]


def seconds(audio: Audio, start_s: float, end_s: float) -> Audio:
    return audio[:, round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]


def together(first: Codes, second: Codes) -> bool:
    return len(set(recordings({"a": first, "b": second}).values())) == 1


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Audio → its fingerprint, by way of a WAV."""
    wav = tmp_path_factory.mktemp("render") / "a.wav"

    def codes(audio: Audio) -> Codes:
        write_wav(wav, audio)
        return fingerprint(wav)

    return codes


@pytest.fixture(scope="module")
def synthetic() -> tuple[Audio, Audio]:
    """The mixes of two songs."""
    first, second = (compose(3, index).mix for index in range(2))
    return seconds(first, 0, 60), seconds(second, 0, 60)


@pytest.fixture(scope="module")
def song(synthetic: tuple[Audio, Audio], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV of `LENGTH_S` seconds: a real song where it is here, else a synthetic one."""
    audio = seconds(synthetic[0], 0, LENGTH_S)
    if REAL_SONG.exists():
        read, _ = soundfile.read(REAL_SONG, frames=audio.shape[1], dtype="float32")
        audio = np.ascontiguousarray(read.T, dtype=np.float32)
    wav = tmp_path_factory.mktemp("song") / "song.wav"
    write_wav(wav, audio)
    return wav


@pytest.fixture(scope="module")
def song_codes(song: Path) -> Codes:
    return fingerprint(song)


def encoded(source: Path, folder: Path, name: str, *options: str) -> Codes:
    """The fingerprint of `source` after a trip through another file, made with ffmpeg's `options`."""
    target, wav = folder / name, folder / "decoded.wav"
    command = [ffmpeg(), "-nostdin", "-loglevel", "error", "-i", source, *options, "-y", target]
    subprocess.run(command, check=True)
    decode_to_wav(target, wav)
    return fingerprint(wav)


# The same recording, and not ------------------------------------------------------------------------

SAME = {
    "mp3": ("a.mp3", "-c:a", "libmp3lame", "-b:a", "96k"),
    "begins 10 s later": ("a.opus", "-ss", "10", "-c:a", "libopus", "-b:a", "96k"),
    "limited": ("a.wav", "-af", "volume=8dB,alimiter=level=disabled"),
}


@pytest.mark.parametrize("change", SAME)
def test_the_same_recording_is_found(song: Path, song_codes: Codes, tmp_path: Path, change: str) -> None:
    assert together(song_codes, encoded(song, tmp_path, *SAME[change]))


def test_a_shared_jingle_makes_no_shared_recording(render: Render, synthetic: tuple[Audio, Audio]) -> None:
    first, second = synthetic
    jingle, rest = seconds(first, 40, 45), seconds(first, 0, 30)
    in_front = render(np.concatenate([jingle, rest], axis=1))
    assert not together(in_front, render(np.concatenate([jingle, seconds(second, 0, 30)], axis=1)))
    assert not together(in_front, render(np.concatenate([seconds(second, 0, 30), jingle], axis=1)))
    assert not together(in_front, render(jingle))
    assert together(in_front, render(rest))


def noisy(rng: np.random.Generator, codes: Codes, bit_error: float) -> Codes:
    flips = rng.random((len(codes), 32)) < bit_error
    return codes ^ (flips @ (1 << np.arange(32, dtype=np.uint64))).astype(np.uint32)


def random_codes(rng: np.random.Generator, length: int = 940) -> Codes:
    return rng.integers(2**32, size=length, dtype=np.uint32)


def plainly(codes: Mapping[str, Codes]) -> dict[str, str]:
    """The same groups by comparing every pair at every offset with half of the shorter in the overlap."""

    def same(a: Codes, b: Codes) -> bool:
        least = max(80, min(len(a), len(b)) // 2)
        for offset in range(least - len(b), len(a) - least + 1):
            there, here = a[max(offset, 0) :], b[max(-offset, 0) :]
            overlap = min(len(there), len(here))
            if np.bitwise_count(there[:overlap] ^ here[:overlap]).mean() <= 0.18 * 32:
                return True
        return False

    names = {key: key for key in codes}
    for a in codes:
        for b in codes:
            if a < b and same(codes[a], codes[b]):
                old, new = sorted([names[a], names[b]])[::-1]
                names = {key: new if name == old else name for key, name in names.items()}
    return names


def families() -> Iterator[tuple[str, Codes]]:
    """Songs cut from anywhere in four recordings, 150 to 300 of 600 codes each, distorted more or less."""
    rng = np.random.default_rng(2)
    recorded = [random_codes(rng, 600) for _ in range(4)]
    for number in range(16):
        start, length = int(rng.integers(450)), int(rng.integers(150, 300))
        cut = recorded[number % 4][start : start + length]
        yield f"{number:02d}", noisy(rng, cut, float(rng.uniform(0.0, 0.03)))


def test_the_groups_are_those_of_comparing_everything() -> None:
    codes = dict(families())
    expected = plainly(codes)
    assert 4 < len(set(expected.values())) < 16  # some cuts of a recording meet, others do not
    assert recordings(codes) == expected
    assert recordings(dict(reversed(codes.items()))) == expected
