"""Audio in and out: 44.1 kHz, stereo, float32, shape (2, S) in [-1, 1].

Files of unknown make are decoded by the ffmpeg that `imageio-ffmpeg` carries; files of our own are WAV,
read and written by soundfile.
"""

import errno
import math
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import soundfile
from imageio_ffmpeg import get_ffmpeg_exe as ffmpeg
from numpy.typing import NDArray
from scipy.io import wavfile

from samuel.errors import InputError, OperatorError

SAMPLE_RATE = 44_100
CHANNELS = 2
STOPPED = 255  # ffmpeg's exit code after a signal that it heard
# Its exit codes are those of its errors, negative, in one byte.
DISK_FULL = {256 - number: number for number in (errno.ENOSPC, errno.EDQUOT)}
INVALID_DATA = 183
ROOM_BYTES = 2**20  # a disk with less is full
SILENCE_DBFS = -60.0  # what is below has nothing to hear, separate or follow
MOST_PEAK = 16.0  # lossy sources overshoot full scale by a half; what is far above it was never scaled to it
MAX_LENGTH_S = 3 * 3600.0  # a float WAV of it stays below the 4 GiB that a WAV can hold
HEADER_BYTES, FRAME_BYTES = 58, 4 * CHANNELS  # of the WAV that ffmpeg writes
PIPED_BYTES = 0x7FFF_F000  # a WAV that was written into a pipe states at least so many, or none
SLACK_S = 0.25  # what a file may lack of the duration it states: codecs add and trim a little at either end
# `-ac 2` would spread mono over both channels by √½; here one channel (FC) goes into both as it is.
TO_STEREO = f"aformat=f=flt:r={SAMPLE_RATE}:cl=mono|stereo,pan=stereo|FL=FL+FC|FR=FR+FC"
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,iff,loas,m4a,matroska,mov,mp3,mp4,mpc,mpc8,mpeg,"
    "mpegts,nut,ogg,oma,rm,shn,tak,tta,voc,w64,wav,webm,wv,xwma"
)
"""What ffmpeg may take a file for: recordings, and not playlists or scripts, which name other files."""

Audio = NDArray[np.float32]
Read = Callable[[int, int], Audio]
"""(start, stop) → the samples [start, stop) of a song, (2, stop - start)."""


class CutShortError(InputError):
    """A file breaks off before the duration it states: what came over a network is worth another try."""


class TooLongError(InputError):
    """A file lasts longer than may be decoded."""


def run_ffmpeg(arguments: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run ffmpeg quietly, out of reach of a Ctrl-C at the terminal: half a file is no verdict on the file.

    An OperatorError where it was stopped from outside, an OSError where the disk is full.
    """
    command = [ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, start_new_session=True)
    if done.returncode < 0 or done.returncode == STOPPED:
        remedy = "see that the machine has memory to spare, and start again. What is done stays"
        raise OperatorError(f"ffmpeg was stopped from outside (exit code {done.returncode}): {remedy}")
    if number := DISK_FULL.get(done.returncode & 0xFF):  # not by its words: a title may hold the same
        raise OSError(number, os.strerror(number))
    return done


def decode_to_wav(source: Path, target: Path, longest_s: float = MAX_LENGTH_S, *, cut: bool = False) -> None:
    """Decode the first audio stream of any file into a 44.1 kHz stereo float32 WAV, three hours at most.

    What is longer than `longest_s` is refused, by the duration it states or else by the samples it has; or it
    is `cut` there, unless it states over three hours. Float, because a lossy source overshoots full scale.
    Mono goes into both channels at its own level; more than two are mixed down. `target` is removed where
    this fails.

    Raises:
        CutShortError: The file breaks off before the duration that it states.
        TooLongError: It is longer than `longest_s`.
        InputError: It is no regular file, ffmpeg finds no audio in it, or it is damaged; others are those of
            `run_ffmpeg`.
    """
    if not (source.is_file() and os.access(source, os.R_OK)):
        kind = "readable" if source.is_file() else "regular" if source.exists() else "such"
        raise InputError(f"{source}: no {kind} file; give an audio file")
    cut, longest_s = cut and longest_s <= MAX_LENGTH_S, min(longest_s, MAX_LENGTH_S)
    refused_s, remedy = MAX_LENGTH_S if cut else longest_s, "give a whole WAV, FLAC, OGG, MP3 or M4A"
    too_long = f"{source}: lasts over {refused_s:g} s, the most that is taken; give a part of it"
    opened = [
        "-protocol_whitelist", "file", "-format_whitelist", CONTAINERS,  # words of it lead nowhere
        "-i", f"file:{source.resolve()}",
    ]  # fmt: skip
    most_s = longest_s if cut else longest_s + 1.0  # by which to know what is longer
    part = ["-map", "0:a:0", "-t", f"{most_s:f}"]
    # Its packets alone are counted in a second: hours of silence are few bytes, and say what they please.
    passed = run_ffmpeg(
        ["-loglevel", "level+info", "-nostats", *opened, *part, "-c", "copy", "-f", "null", "-"]
    )
    stated_s, counted_s = _durations_s(passed.stderr.decode(errors="replace"))
    counted_s = 0.0 if cut or counted_s > most_s + 60.0 else counted_s  # some timestamps are nonsense
    if max(stated_s or 0.0, counted_s) > refused_s + SLACK_S:
        raise TooLongError(too_long)
    with ExitStack() as failed:
        failed.callback(target.unlink, missing_ok=True)
        done = run_ffmpeg([
            "-loglevel", "level+error", *([] if _from_pipe(source) else ["-xerror"]), *opened,
            *part, "-map_metadata", "-1", "-fflags", "+bitexact", "-af", TO_STEREO,
            "-c:a", "pcm_f32le", "-f", "wav", "-y", f"file:{target.resolve()}",
        ])  # fmt: skip
        written = max(target.stat().st_size - HEADER_BYTES, 0) if target.is_file() else 0
        written_s = written // FRAME_BYTES / SAMPLE_RATE
        # ffmpeg ends well where an MP3 or an OGG breaks off, and ill where a tag follows a whole one: the
        # duration decides, where the file states one.
        short = stated_s is not None and written_s < min(stated_s, most_s) - SLACK_S
        whole = stated_s is not None and written_s > 0.0 and not short
        if done.returncode == 0 and short:
            stated = f"{written_s:.2f} s of the {stated_s} s that it states"
            raise CutShortError(f"{source}: breaks off ({stated}); {remedy}")
        if done.returncode and not (whole and done.returncode & 0xFF == INVALID_DATA):
            said = done.stderr.decode(errors="replace")
            fault = re.search(r"^(?:\[.*? @ .*?\] )*\[(?:error|fatal)\] (.+)$", said, re.MULTILINE)
            reason = fault[1].strip() if fault else "unknown reason"
            raise InputError(f"{source}: not readable as audio ({reason}); {remedy}")
        if not cut and written_s > longest_s:
            raise TooLongError(too_long)
        failed.pop_all()


def _from_pipe(path: Path) -> bool:
    """True for a WAV whose writer could not go back to state its size: its end is where the file ends."""
    with path.open("rb") as file:
        riff, size, wave = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    unknown = size == 0 or size >= max(PIPED_BYTES, path.stat().st_size)
    return (riff, wave) == (b"RIFF", b"WAVE") and unknown


def _durations_s(said: str) -> tuple[float | None, float]:
    """Seconds that a file states, None where nothing can be held to it, and that ffmpeg passed on of it."""
    stated, passed = (
        [
            60.0 * (60 * int(hours) + int(minutes)) + float(seconds)
            for hours, minutes, seconds in re.findall(rf"{name}(\d+):(\d\d):(\d\d\.\d+)", said, re.MULTILINE)
        ]
        for name in (r"^\[info\]   Duration: ", " time=")
    )
    film = re.search(r"^\[info\]   Stream #.*: Video: (?!.*\(attached pic\))", said, re.MULTILINE)
    # Pictures may outlast their sound, and a guess is none.
    held = stated and not film and "Estimating duration from bitrate" not in said
    return stated[0] if held else None, passed[-1] if passed else 0.0


def read_wav(path: Path) -> Audio:
    """Read a WAV of ours, (2, S) float32; an InputError where it is not 44.1 kHz stereo."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE or samples.shape[1] != CHANNELS:
        raise InputError(f"{path}: {rate} Hz, {samples.shape[1]} channels; expected {SAMPLE_RATE} Hz stereo")
    return np.ascontiguousarray(samples.T, dtype=np.float32)


def read_blocks(path: Path, samples: int = 2**18) -> Iterator[Audio]:
    """The successive (2, `samples`) float32 of a WAV of ours; the last may be shorter."""
    with soundfile.SoundFile(path) as file:
        for block in file.blocks(samples, dtype="float32", always_2d=True):
            yield np.ascontiguousarray(block.T, dtype=np.float32)


def write_wav(path: Path, audio: Audio, subtype: str = "FLOAT") -> None:
    """Write (2, S) float32 as WAV; `subtype` is FLOAT, or libsndfile's PCM_16 or PCM_24 (clipped to [-1, 1]).

    The same samples give the same bytes: libsndfile would put the time of day into a float file.
    """
    if subtype == "FLOAT":
        wavfile.write(path, SAMPLE_RATE, audio.T)
    else:
        with failed_write_told(path):
            soundfile.write(path, np.clip(audio, -1.0, 1.0).T, SAMPLE_RATE, format="WAV", subtype=subtype)


@contextmanager
def failed_write_told(path: Path) -> Iterator[None]:
    """Have an error of libsndfile while it writes a file become an OSError; libsndfile does not say which."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        number = errno.ENOSPC if shutil.disk_usage(path.parent).free < ROOM_BYTES else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def resample(audio: Audio, from_rate: int, to_rate: int) -> Audio:
    """(2, S) at one rate → (2, ceil(S · to / from)) at another, by a polyphase filter that shifts nothing."""
    read, samples = resampled(lambda start, stop: audio[:, start:stop], audio.shape[1], from_rate, to_rate)
    return read(0, samples)


def resampled(read: Read, samples: int, from_rate: int, to_rate: int) -> tuple[Read, int]:
    """How to read a song at another rate, each stretch as that of the whole song, and its samples there."""
    if from_rate == to_rate:
        return read, samples
    from scipy.signal import resample_poly

    # Every `down` samples here begin with one of `up` samples there: cut there, phases stay.
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    margin = filter_reach(from_rate, to_rate) // down - 1

    def read_resampled(start: int, stop: int) -> Audio:
        first, last = max(start // up - margin, 0), -(-stop // up) + margin
        audio = read(first * down, min(last * down, samples))
        made: Audio = resample_poly(audio, up, down, axis=1)
        return made[:, start - first * up : stop - first * up]

    return read_resampled, -(-samples * up // down)


def filter_reach(from_rate: int, to_rate: int) -> int:
    """Samples beyond a stretch that its resampling reads on either side, at most; 0 between equal rates."""
    if from_rate == to_rate:
        return 0
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    half_filter = -(-10 * max(up, down) // up)  # of scipy.signal.resample_poly
    return (-(-half_filter // down) + 1) * down


def dbfs(audio: Audio) -> float:
    """Root mean square level in dB relative to full scale; -120 for silence."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10.0 * float(np.log10(max(power, 1e-12)))


def si_sdr_db(estimate: Audio, reference: Audio) -> float:
    """Scale-invariant signal-to-distortion ratio, 10 log10(‖αs‖² / ‖αs − ŝ‖²) with α = ⟨ŝ, s⟩ / ‖s‖².

    (2, S) ŝ and (2, S) s, not silent, each as one vector → dB; inf for a scaled copy, -inf for nothing of s.
    Source: Le Roux et al., "SDR – half-baked or well done?" (2019), eq. 4 and 5.
    """
    s, s_hat = (np.asarray(audio, dtype=np.float64).ravel() for audio in (reference, estimate))
    target = (s_hat @ s) / (s @ s) * s
    kept, lost = float(target @ target), float(np.square(target - s_hat).sum())
    if kept == 0.0 or lost == 0.0:
        return math.inf if kept else -math.inf
    return 10.0 * math.log10(kept / lost)
