"""Recordings that several songs share, whatever their titles say.

A fingerprint is Chromaprint's: 32 bits for every 0.124 s. Two uploads of one recording share many codes
exactly, all at the same offset; these name the candidates, and the bit error over the whole overlap decides.
Of 62 tracks it was at most 0.149 where the recording is the same (opus at 24 kbit/s, shifted, limited,
filtered), and at least 0.188 where it is not, but for slow ambient tracks 1 % faster (from 0.105) and
instrumentals of synthetic songs (from 0.160).
"""

import base64
import logging
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samuel.audio import ffmpeg, run_ffmpeg
from samuel.errors import InputError, MissingPartError

logger = logging.getLogger(__name__)

LENGTH_S = 120  # that are read, as AcoustID does: 948 codes, half of them left after an intro of a minute
BIT_ERROR = 0.18  # share of differing bits up to which two overlapping stretches are one recording
OVERLAP_SHARE = 0.5  # of the shorter must overlap: a shared jingle or sample is no shared recording
OVERLAP_CODES = 80  # the same in codes, 10 s, for short files
VOTES = 2  # different codes shared at one offset, to be compared; silence or a tone has one code
NEIGHBOURS = 4  # songs with which a code is looked up, among all that hold it: a group hangs together by them
SHARES = 31  # in which codes are looked up, one after the other: of 14,000 songs all at once take 0.6 GB

Codes = NDArray[np.uint32]
Places = NDArray[np.int64]


def fingerprint(wav: Path) -> Codes:
    """Chromaprint codes of the first `LENGTH_S` seconds of a WAV of ours, (N,), N ≈ 8.08 · seconds - 21.

    An InputError where it is no whole WAV, a MissingPartError where this ffmpeg has no Chromaprint.
    Source: L. Lalinský, "How does Chromaprint work?", 2011.
    """
    arguments = [
        "-xerror", "-protocol_whitelist", "file", "-f", "wav", "-t", str(LENGTH_S),
        "-i", f"file:{wav.resolve()}", "-map", "0:a:0", "-f", "chromaprint", "-fp_format", "raw", "pipe:1",
    ]  # fmt: skip
    done = run_ffmpeg(arguments)
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        if "Requested output format" in message:  # known to ffmpeg, not to this build
            remedy = "set IMAGEIO_FFMPEG_EXE to an ffmpeg whose -muxers list it"
            raise MissingPartError(f"{ffmpeg()} cannot write Chromaprint; {remedy}")
        reason = message.splitlines()[-1:] or ["unknown reason"]
        raise InputError(f"{wav}: no fingerprint can be taken ({reason[0]}); give a whole WAV")
    # The muxer writes its array as it lies in memory, so in the byte order of this machine.
    return np.frombuffer(done.stdout, dtype=np.uint32).copy()


def to_text(codes: Codes) -> str:
    """Codes as text that JSON can hold: base64 of little-endian 32-bit numbers."""
    return base64.b64encode(codes.astype("<u4").tobytes()).decode()


def from_text(text: str) -> Codes:
    """The codes that `to_text` wrote."""
    return np.frombuffer(base64.b64decode(text), "<u4").astype(np.uint32)


@cache
def supported() -> bool:
    """True where this ffmpeg has Chromaprint; those that imageio-ffmpeg carries do on Linux only."""
    done = subprocess.run([ffmpeg(), "-hide_banner", "-muxers"], capture_output=True, text=True, check=True)
    if found := " chromaprint " in done.stdout:
        return found
    logger.warning("this ffmpeg has no Chromaprint: the same recording is known by its bytes alone")
    return False


def recordings(fingerprints: Mapping[str, Codes]) -> dict[str, str]:
    """For each key the name of its recording: the smallest key of all that sound the same.

    With a like b and b like c, all three share a name. Silence or a tone is like no other.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys = sorted(fingerprints)
    codes = [np.asarray(fingerprints[key], dtype=np.uint32) for key in keys]
    alike = {(a, b) for a, b, offset in _candidates(codes) if _alike(codes[a], codes[b], offset)}
    ends = np.array(sorted(alike), dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(alike)), (ends[0], ends[1])), shape=(len(keys), len(keys)))
    groups = connected_components(graph, directed=False)[1].tolist() if keys else []
    smallest: dict[int, str] = {}
    return {key: smallest.setdefault(group, key) for key, group in zip(keys, groups, strict=True)}


def _candidates(codes: Sequence[Codes]) -> Iterator[tuple[int, int, int]]:
    """Songs a < b that share `VOTES` codes or more at one offset; b begins `offset` codes into a."""
    lengths = np.array([len(own) for own in codes], dtype=np.int64)
    if not lengths.sum():
        return
    every_code, starts = np.concatenate(codes), np.cumsum(lengths) - lengths
    songs, longest = len(codes), int(lengths.max())
    span, found = 2 * longest + 1, list[Places]()
    for share in range(SHARES):
        # Each song's first use of each code, by code, then song, then position in the song.
        place = np.flatnonzero(every_code % SHARES == share)
        place = place[np.argsort(every_code[place], kind="stable")]
        code, song = every_code[place], np.searchsorted(starts, place, side="right") - 1
        first = np.ones(len(code), dtype=np.bool_)
        first[1:] = (code[1:] != code[:-1]) | (song[1:] != song[:-1])
        code, song, position = code[first], song[first], (place - starts[song])[first]
        # At each code that two songs share, the pair and the offset between the two, as one number.
        for step in range(1, NEIGHBOURS + 1):
            met = np.flatnonzero(code[step:] == code[:-step])
            pair = song[met] * songs + song[met + step]
            found.append(pair * span + position[met] - position[met + step] + longest)
    meetings = np.sort(np.concatenate(found))
    last = meetings[VOTES - 1 :]
    for meeting in np.unique(last[last == meetings[: 1 - VOTES]]).tolist():
        pair, offset = divmod(meeting, span)
        yield pair // songs, pair % songs, offset - longest


def _alike(a: Codes, b: Codes, offset: int) -> bool:
    """True where `b`, laid `offset` codes into `a`, is the same; of held codes only the first counts."""
    start_a, start_b = max(offset, 0), max(-offset, 0)
    length = min(len(a) - start_a, len(b) - start_b)
    a_there, b_there = a[start_a : start_a + length], b[start_b : start_b + length]
    changes = (a_there[1:] != a_there[:-1]) | (b_there[1:] != b_there[:-1])
    fewest = min(np.count_nonzero(own[1:] != own[:-1]) for own in (a, b))
    if changes.sum() < max(OVERLAP_CODES, OVERLAP_SHARE * fewest):
        return False
    differing = np.bitwise_count(a_there ^ b_there)[1:][changes]
    return bool(differing.mean() <= 32 * BIT_ERROR)
