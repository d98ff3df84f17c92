import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional
from scipy.io import wavfile

from samuel.audio import SAMPLE_RATE, Audio, read_wav, write_wav
from samuel.errors import InputError, OperatorError
from samuel.generate import output
from samuel.generate.output import Balance, balance_of, require_writable, write_limited, write_stream
from tests.decoding import load_audio
from tests.small_disk import run_on_small_disk

STEP = 2.0**-23


def noise(samples: int, level: float = 0.5, seed: int = 0) -> Audio:
    return np.random.default_rng(seed).uniform(-level, level, (2, samples)).astype(np.float32)


def source(folder: Path, audio: Audio, name: str = "source.wav") -> Path:
    write_wav(folder / name, audio)
    return folder / name


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_stream_is_what_its_blocks_are_in_a_row(tmp_path: Path) -> None:
    audio = noise(10_000, 3.0)
    audio[1, 7_777] = -4.5
    blocks = np.split(audio, [1, 1, 4_000], axis=1)
    assert write_stream(tmp_path / "a.wav", iter(blocks)) == 4.5
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(samples.T, audio)
    np.testing.assert_array_equal(wavfile.read(tmp_path / "a.wav")[1].T, audio)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", tmp_path), audio)


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def blocks() -> Iterator[Audio]:
        yield noise(100)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stream(tmp_path / "a.wav", blocks())
    assert names(tmp_path) == set()
    for samples in (10, 1_000_000):
        (tmp_path / "a.wav").symlink_to("/dev/full")
        with pytest.raises(OperatorError, match=r"a\.wav: the disk is full; .* Free some space"):
            write_stream(tmp_path / "a.wav", [noise(samples)])
        assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["A.WAV", "a b:%20\N{GUITAR}.flac"])
def test_an_accompaniment_is_written_at_24_bits(tmp_path: Path, name: str) -> None:
    audio = noise(300_000, 1.0)
    path = tmp_path / "new" / name
    output.write_accompaniment(path, source(tmp_path, audio))
    about = soundfile.info(path)
    assert (about.format, about.subtype) in {("WAVEX", "PCM_24"), ("FLAC", "PCM_24")}
    assert (about.format == "FLAC") == (path.suffix.lower() == ".flac")
    samples, _ = soundfile.read(path, dtype="float64")
    assert samples.shape == (300_000, 2)
    assert np.abs(samples.T - audio).max() <= 1.1 * STEP
    np.testing.assert_allclose(load_audio(path, tmp_path), audio, rtol=0, atol=1.1 * STEP)
    assert names(path.parent) == {name}


def test_what_overshoots_is_limited_around_it_and_nowhere_else(tmp_path: Path) -> None:
    audio = noise(600_000)
    audio[:, 300_000:300_040] *= 1000
    audio[1, 555_555] = -1.7
    overshoot_db = write_limited(tmp_path / "a.wav", np.split(audio, [7, 300_010], axis=1))
    assert overshoot_db == pytest.approx(20 * np.log10(np.abs(audio).max()), abs=1e-4)
    samples = read_wav(tmp_path / "a.wav")
    assert np.abs(samples).max() <= 1.0
    changed = np.flatnonzero((samples != audio).any(axis=0))
    assert set(changed // 1000) <= {299, 300, 301, 302, 555, 556, 557}
    assert names(tmp_path) == {"a.wav"}


def test_what_is_no_number_is_not_written(tmp_path: Path) -> None:
    audio = noise(1_000)
    audio[0, 3] = np.inf
    with pytest.raises(OperatorError, match="NaN or infinite"):
        write_limited(tmp_path / "a.wav", [audio])
    assert names(tmp_path) == set()
    with pytest.raises(OperatorError, match=r"a\.wav: ffmpeg could not write it \(.+\); choose another"):
        output.write_accompaniment(tmp_path / "a.wav", tmp_path / "absent.wav")


@pytest.mark.parametrize(
    ("name", "accompaniment_gain_db", "mix_gain_db"), [("mix.wav", -7.3, -0.2), ("mix.flac", 5.1, -6.0)]
)
def test_a_mix_is_the_sum(
    tmp_path: Path, name: str, accompaniment_gain_db: float, mix_gain_db: float
) -> None:
    vocal, accompaniment = noise(400_001, 0.4), noise(400_001, 0.4, seed=1)
    gains = Balance(accompaniment_gain_db, mix_gain_db, None, None)
    path = tmp_path / name
    output.write_mix(path, source(tmp_path, vocal, "v.wav"), source(tmp_path, accompaniment, "a.wav"), gains)
    factor = 10 ** (accompaniment_gain_db / 20)
    expected = 10 ** (mix_gain_db / 20) * (vocal.astype(np.float64) + factor * accompaniment)
    samples, rate = soundfile.read(path, dtype="float64")
    assert (rate, samples.shape) == (SAMPLE_RATE, (400_001, 2))
    assert np.abs(samples.T - expected).max() <= 1.5 * STEP
    assert names(tmp_path) == {name, "v.wav", "a.wav"}


def test_a_place_is_tried_and_left_as_it_is(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder" / "a.wav")
    assert names(tmp_path / "new" / "folder") == set()
    (tmp_path / "a.wav").write_bytes(b"of yesterday")
    require_writable(tmp_path / "a.wav")
    assert (tmp_path / "a.wav").read_bytes() == b"of yesterday"
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path, tmp_path / "pipe.wav"):
        with pytest.raises(InputError, match="no regular file"):
            require_writable(path)
    with pytest.raises(InputError, match=r"a\.wav\.json: the suffix says neither \.wav nor \.flac"):
        require_writable(tmp_path / "a.wav.json")
    for path in (tmp_path / "a.wav" / "a.wav", tmp_path / f"{'a' * 230}.wav", tmp_path / "a\0.wav"):
        with pytest.raises(OperatorError, match=r"cannot be written \(.*; choose another place"):
            require_writable(path)
    assert names(tmp_path) == {"new", "a.wav", "pipe.wav"}


def music(level: float, seed: int = 0, seconds: float = 6.0, hz: float = 440.0) -> Audio:
    """A tone with noise, the second half 12 dB softer."""
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, len(time_s)))
    fade = np.where(time_s < seconds / 2, 1.0, 0.25)
    return (level * fade * (0.5 * np.sin(2 * np.pi * hz * time_s) + noise)).astype(np.float32)


def loudness_by_torchaudio(audio: Audio) -> float:
    """Measured where nothing passes full scale: torchaudio's filters would clip that."""
    factor = 1 / max(1.0, 8 * float(np.abs(audio).max()))
    loudness = torchaudio.functional.loudness(torch.from_numpy(factor * audio).double(), SAMPLE_RATE)
    return float(loudness) - 20 * np.log10(factor)


@pytest.mark.parametrize(("sung", "played", "balance_db"), [(0.02, 0.9, -3.0), (2.5, 1.0, 1.0)])
def test_the_vocal_is_as_much_louder_as_wanted(
    tmp_path: Path, sung: float, played: float, balance_db: float
) -> None:
    vocal, accompaniment = music(sung), music(played, seed=1, hz=220.0)
    gains = balance_of(source(tmp_path, vocal, "v.wav"), source(tmp_path, accompaniment, "a.wav"), balance_db)
    factor = 10 ** (gains.mix_gain_db / 20)
    in_mix = factor * vocal, factor * 10 ** (gains.accompaniment_gain_db / 20) * accompaniment
    loudness = [loudness_by_torchaudio(audio) for audio in in_mix]
    assert loudness[0] - loudness[1] == pytest.approx(balance_db, abs=0.15)
    assert gains.vocal_lufs == pytest.approx(loudness_by_torchaudio(vocal), abs=0.1)
    assert gains.accompaniment_lufs == pytest.approx(loudness_by_torchaudio(accompaniment), abs=0.1)
    peak = float(np.abs(sum(in_mix)).max())
    highest = 10 ** (-1 / 20)
    assert peak <= highest * 1.00001
    assert gains.mix_gain_db == 0 or peak == pytest.approx(highest, rel=1e-4)


def test_nothing_is_matched_to_silence_and_the_faint_not_raised_without_end(tmp_path: Path) -> None:
    loud, faint, silent = (source(tmp_path, music(level), f"{level}.wav") for level in (0.5, 0.002, 0.0))
    assert balance_of(loud, faint).accompaniment_gain_db == 24.0
    assert balance_of(loud, silent).accompaniment_gain_db == 0.0
    assert balance_of(silent, silent) == Balance(0.0, 0.0, None, None)


SMALL_DISK = """
import os, sys, types
from pathlib import Path
package = types.ModuleType("samuel.generate")
package.__path__ = ["samuel/generate"]
sys.modules["samuel.generate"] = package
from samuel.errors import OperatorError
from samuel.generate.output import write_accompaniment
disk, wav = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("a.wav", "a.flac"):
    path = disk / name
    write_accompaniment(path, wav)
    need, whole = -(-path.stat().st_size // 4096), path.read_bytes()
    path.unlink()
    for left in (0, 1, need // 2, need - 1, need, need + 1):
        free = os.statvfs(disk).f_bavail
        (disk / "ballast").write_bytes(bytes(4096 * (free - left)))
        before = b"of yesterday" if left > 1 else None
        if before:
            path.write_bytes(before)
        try:
            write_accompaniment(path, wav)
            assert path.read_bytes() == whole
            print("whole" if left > need else "wrong")
        except OperatorError as error:
            assert "the disk is full; nothing half-written was left" in str(error), error
            assert (path.read_bytes() if path.exists() else None) == before
            print("full" if left <= need else "wrong")
        path.unlink(missing_ok=True)
        (disk / "ballast").unlink()
        assert list(disk.iterdir()) == []
"""


def test_a_disk_that_gets_full_at_any_point_is_noticed(tmp_path: Path) -> None:
    disk, wav = tmp_path / "disk", source(tmp_path, noise(100_000))
    done = run_on_small_disk(disk, "1m", [sys.executable, "-c", SMALL_DISK, str(disk), str(wav)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == 2 * [*5 * ["full"], "whole"]
