"""The band: instruments, patterns and a kit are drawn for the song, then each part plays the score.

An instrument is a pure function from a MIDI pitch and a length in seconds to a mono note, (S,). Patterns are
strings, a character a step: '-' holds the note before, '.' is a rest, anything else strikes. A groove has
sixteen steps a bar.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from samuel.audio import SAMPLE_RATE, Audio
from samuel.synthetic.room import Signal, Track, hertz, loudness, mono, reverberation
from samuel.synthetic.score import BEATS_PER_BAR, Chord, Kind, Score, Section, voicing

BRIGHTEST_HZ = 9_000.0
RELEASE_S = 0.08

Array = NDArray[np.float64]
Instrument = Callable[[int, float], Signal]


def struck(
    most: int, amplitudes: Callable[[Array, float], Array], decay: float, damping: float
) -> Instrument:
    """Partials with `amplitudes` by n and Hz, of which n dies at rate `decay` + n `damping`, in 1/s."""

    def note(pitch: int, length_s: float) -> Signal:
        t, f = _time(length_s + RELEASE_S), hertz(pitch)
        sound = _partials(t, f, amplitudes(_harmonics(pitch, most), f), damping) * np.exp(-decay * t)
        return _shaped(sound, attack_s=0.004, release_s=RELEASE_S)

    return note


def bowed(
    most: int, corner_hz: float, voices: tuple[tuple[float, float, float], ...],
    attack_s: float, ringing_s: float, release_s: float,
) -> Instrument:  # fmt: skip
    """Saws through a dark filter, slow to speak; each voice has a detuning and a vibrato's rate and depth."""

    def note(pitch: int, length_s: float) -> Signal:
        t, f, n = _time(length_s + ringing_s), hertz(pitch), _harmonics(pitch, most)
        saw = np.exp(-n * f / corner_hz) / n
        sounds = [
            _partials(t + 4e-5 * depth * np.sin(2.0 * np.pi * rate * t), f * detuning, saw)
            for detuning, rate, depth in voices
        ]
        return _shaped(np.sum(sounds, axis=0), attack_s, release_s)

    return note


def electric_piano(pitch: int, length_s: float) -> Signal:
    """Frequency modulation (Chowning 1973): a bark that mellows, and a tine that pings."""
    t, f = _time(length_s + RELEASE_S), hertz(pitch)
    phase = 2.0 * np.pi * f * t
    body = np.sin(phase + 1.6 * np.exp(-t / 0.35) * np.sin(phase)) * np.exp(-t / 1.4)
    tine = 0.12 * np.sin(phase + 0.8 * np.sin(14.0 * phase)) * np.exp(-t / 0.09) if f < 800 else 0.0
    tremolo = 1.0 + 0.12 * np.sin(2.0 * np.pi * 4.8 * t)
    return _shaped((body + tine) * tremolo, attack_s=0.003, release_s=RELEASE_S)


def organ(pitch: int, length_s: float) -> Signal:
    """Drawbars 888 6 4 through a slow rotor."""
    t, drawbars = _time(length_s + RELEASE_S), np.array([0.8, 0.8, 0.8, 0.6, 0.0, 0.4, 0.0, 0.3])
    rotor = np.sin(2.0 * np.pi * 1.1 * t)
    sound = _partials(t + 5e-5 * rotor, hertz(pitch), drawbars) * (1.0 + 0.1 * rotor)
    return _shaped(sound, attack_s=0.008, release_s=0.06)


def flute(pitch: int, length_s: float) -> Signal:
    """A lead with few partials and a vibrato that grows."""
    t = _time(length_s + RELEASE_S)
    wobble = 3e-4 * np.clip(t - 0.2, 0.0, 0.5) * np.sin(2.0 * np.pi * 4.9 * t)
    sound = _partials(t + wobble, hertz(pitch), np.array([1.0, 0.35, 0.16, 0.05]))
    return _shaped(sound, attack_s=0.05, release_s=0.08)


def _partials(t: Array, f0_hz: float, amplitudes: Array, damping: float = 0.0) -> Array:
    """Sum over n of a_n exp(-n damping t) sin(2π n f0 t): by Horner's rule it costs one exponential."""
    step = np.exp((2j * np.pi * f0_hz - damping) * t).astype(np.complex64)
    total = np.zeros_like(step)
    for amplitude in amplitudes[::-1]:
        total += np.complex64(amplitude)
        total *= step
    return total.imag.astype(np.float64)


def _shaped(sound: Array, attack_s: float, release_s: float) -> Signal:
    t = np.arange(sound.size) / SAMPLE_RATE
    envelope = np.minimum(1.0, t / attack_s) * np.minimum(1.0, (t[-1] - t) / release_s)
    return (sound * envelope).astype(np.float32)


def _harmonics(pitch: int, most: int) -> Array:
    return np.arange(1.0, min(most, int(BRIGHTEST_HZ / hertz(pitch))) + 1)


def _time(length_s: float) -> Array:
    return np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE


# A steel string plucked at a fifth of its length.
pluck = struck(28, lambda n, _: np.sin(np.pi * n / 5.0) / n**1.2, decay=0.9, damping=0.5)
CHORDS: dict[str, Instrument] = {
    "pluck": pluck,
    "nylon": struck(14, lambda n, _: np.sin(np.pi * n / 2.6) / n**1.7, decay=1.6, damping=0.8),
    "electric_piano": electric_piano,
    "organ": organ,
}
BEDS: dict[str, Instrument] = {
    "pad": bowed(16, 1600.0, ((0.9965, 0, 0), (1.0, 0, 0), (1.0041, 0, 0)), 0.18, 0.3, 0.4),
    "strings": bowed(22, 3500.0, ((0.998, 5.1, 1.0), (1.0025, 4.6, 1.3)), 0.09, 0.2, 0.25),
    "organ": organ,
}
LEADS: dict[str, Instrument] = {
    "flute": flute,
    "synth_lead": struck(24, lambda n, _: np.where(n % 2 == 1, 1.0, 0.25) / n, decay=0.4, damping=0.12),
    "pluck": pluck,
}
BASSES: dict[str, Instrument] = {
    "finger": struck(18, lambda n, _: np.sin(np.pi * n / 3.7) / n**1.3, decay=0.7, damping=0.45),
    "sub": struck(10, lambda n, _: 1.0 / n**2.2, decay=0.25, damping=0.15),
    "saw": struck(30, lambda n, f: np.exp(-n * f / 1800.0) / n, decay=0.6, damping=0.7),
}


# Steps of a bar, 'x' a stroke, 'o' a soft one: kick, snare and hat; kick and hat of loud sections.
GROOVES = (
    "x.......x....... ....x.......x... x.o.x.o.x.o.x.o. x.....x.x....... x.x.x.x.x.x.x.x.",
    "x...x...x...x... ....x.......x... ..x...x...x...x. x...x...x...x... o.x.o.x.o.x.o.x.",
    "x.........x..... ........x....... x...o...x...o... x.....x...x..... x.o.x.o.x.o.x.o.",
    "x..x......x..... ....x..o.o..x..o xoxoxoxoxoxoxoxo x..x..x...x..x.. xoxoxoxoxoxoxoxo",
    "x......xx....... ....x.......x... x.x.x.x.x.x.x.x. x......xx.x..... xoxoxoxoxoxoxoxo",
    "x.....x.....x... ....o.......x... x.ox.ox.x.ox.ox. x.....x...x.x... x.xx.xx.x.xx.xx.",
)
FILLS = (
    (("snare", "..........x.x.xx"),),
    (("snare", "........xx......"), ("tom", "..........xx...."), ("low_tom", "............x.x.")),
    (("tom", "........x..x...."), ("low_tom", "............x..x")),
    (("snare", "........oooooxxx"),),
)
DRUMS = {
    "kick": (1.0, 0.0), "snare": (0.8, 0.05), "hat": (0.3, 0.3), "open": (0.25, 0.3), "crash": (0.4, -0.4),
    "tom": (0.8, -0.3), "low_tom": (0.9, 0.4),
}  # fmt: skip
"""Gain and pan."""


def _drawn_kit(rng: np.random.Generator) -> dict[str, Signal]:
    """The hits of a kit, each (S,) with a peak of about 1."""
    return {
        "kick": _drum(rng, f_hz=rng.uniform(44, 58), sweep=rng.uniform(2.0, 4.0), decay_s=0.14, noise=0.05),
        "snare": _snare(rng, f_hz=rng.uniform(165, 230), decay_s=rng.uniform(0.06, 0.13)),
        "hat": _cymbal(rng, decay_s=rng.uniform(0.012, 0.03), low_hz=7000),
        "open": _cymbal(rng, decay_s=0.12, low_hz=6500),
        "crash": _cymbal(rng, decay_s=0.5, low_hz=3500),
        "tom": _drum(rng, f_hz=rng.uniform(120, 150), sweep=0.6, decay_s=0.16, noise=0.04),
        "low_tom": _drum(rng, f_hz=rng.uniform(75, 95), sweep=0.6, decay_s=0.2, noise=0.04),
    }


def _drum(rng: np.random.Generator, f_hz: float, sweep: float, decay_s: float, noise: float) -> Signal:
    """A skin: a sine that falls to `f_hz` from (1 + sweep) times as high, with a click."""
    t = _time(6.0 * decay_s)
    phase = 2.0 * np.pi * f_hz * (t + sweep * 0.03 * (1.0 - np.exp(-t / 0.03)))
    click = noise * rng.standard_normal(t.size) * np.exp(-t / 0.004)
    return _peaked(np.sin(phase) * np.exp(-t / decay_s) + click)


def _snare(rng: np.random.Generator, f_hz: float, decay_s: float) -> Signal:
    t = _time(6.0 * decay_s)
    skin = np.sin(2.0 * np.pi * f_hz * (t + 0.01 * (1.0 - np.exp(-t / 0.01)))) * np.exp(-t / 0.07)
    return _peaked(0.7 * skin + _noise_band(rng, t.size, 1200.0, 9000.0) * np.exp(-t / decay_s))


def _cymbal(rng: np.random.Generator, decay_s: float, low_hz: float) -> Signal:
    t = _time(6.0 * decay_s)
    return _peaked(_noise_band(rng, t.size, low_hz, 16_000.0) * np.exp(-t / decay_s))


def _noise_band(rng: np.random.Generator, samples: int, low_hz: float, high_hz: float) -> Array:
    sections = butter(2, (low_hz, high_hz), btype="bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sosfilt(sections, rng.standard_normal(samples)))


def _peaked(sound: Array) -> Signal:
    fade = np.minimum(1.0, np.arange(sound.size)[::-1] / 200.0)
    return (sound * fade / np.abs(sound).max()).astype(np.float32)


BASS_PATTERNS = (
    "r-------", "r---r-5-", "r-r-r-r-", "rrrrrrrr", "r--r--5-", "r-8-r-8-", "r--r-5-8", "r-----r5",
)  # fmt: skip
STRIKE_PATTERNS = ("x---x---", "x-x-x-x-", "x-xx-xxx", "x--x--x-", "..x-..x-", "x-.x-.x-", "x-xx.xx-")
ARPEGGIO_PATTERNS = ("01232123", "02130213", "0-1-2-1-", "01210121", "0-12-12-")
LEVELS: dict[Kind, float] = {
    "intro": 0.6, "verse": 0.75, "chorus": 1.0, "break": 0.7, "solo": 0.95, "outro": 0.7,
}  # fmt: skip
LOUD = ("chorus", "solo")
CHORD_LOW, BASS_LOW = 54, 28
STRUM_S = 0.013

Notes = Iterator[tuple[float, int, float, float, float]]  # start and pitch, length in seconds, gain, pan
Strokes = Iterator[tuple[str, float, float]]  # drum, beat, strength


def play(rng: np.random.Generator, score: Score) -> Audio:
    """The accompaniment of a score, (2, S), with a peak below 1."""

    def pick(table: dict[str, Instrument]) -> Instrument:
        return table[str(rng.choice(list(table)))]

    # Of each pair of patterns, the first is for quiet sections.
    strikes = [str(pattern) for pattern in rng.choice(STRIKE_PATTERNS, size=2, replace=False)]
    if rng.random() < 0.5:
        strikes[0] = str(rng.choice(ARPEGGIO_PATTERNS))
    basses = rng.choice(BASS_PATTERNS, size=2, replace=False).tolist()
    groove, fill = GROOVES[rng.integers(len(GROOVES))], FILLS[rng.integers(len(FILLS))]
    bass, chords, bed = pick(BASSES), pick(CHORDS), pick(BEDS)
    bed_everywhere = bool(rng.random() < 0.4)
    lead, first_with_drums = pick(LEADS), int(rng.integers(2))
    parts = [  # each with its level and its share of the room
        (_drums(rng, score, _strokes(score.sections[first_with_drums:], groove, fill)), 1.0, 0.15),
        (_played(score, bass, _bass(score, basses)), 0.8, 0.03),
        (_played(score, chords, _chords(score, strikes)), rng.uniform(0.6, 0.85), 0.4),
        (_played(score, bed, _bed(score, bed_everywhere)), rng.uniform(0.3, 0.5), 0.45),
        (_played(score, lead, _lead(score)), 0.6, 0.45),
    ]
    dry = np.zeros_like(parts[0][0].audio)
    send = np.zeros(dry.shape[1], np.float32)
    for track, level, wetness in parts:
        gain = level / max(loudness(track.audio), 1e-6)  # a part may be silent
        dry += np.float32(gain) * track.audio
        send += np.float32(gain * wetness) * mono(track.audio)
    dry += reverberation(rng, send, decay_s=rng.uniform(0.7, 1.3), predelay_s=0.02)
    # The tape of the mix: round the drums' peaks rather than turn the song down for them.
    return np.tanh(np.float32(0.22) * dry)


def _drums(rng: np.random.Generator, score: Score, strokes: Strokes) -> Track:
    kit, track = _drawn_kit(rng), Track(score.duration_s)
    for name, beat, strength in strokes:
        level, pan = DRUMS[name]
        gain = level * strength * rng.uniform(0.88, 1.0)
        track.add(score.seconds(beat) + rng.uniform(0.0, 0.004), kit[name], gain, pan)
    return track


def _strokes(sections: tuple[Section, ...], groove: str, fill: tuple[tuple[str, str], ...]) -> Strokes:
    """Every stroke; a fill takes the second half of a section's last bar."""
    kick, snare, hat, loud_kick, loud_hat = groove.split()
    beat = 0
    for section in sections:
        beat, level = section.first_bar * BEATS_PER_BAR, LEVELS[section.kind]
        if section.kind in LOUD:
            lines = [("kick", loud_kick), ("snare", snare), ("open" if "." in loud_hat else "hat", loud_hat)]
            yield "crash", beat, 1.0
        elif section.kind == "break":
            lines = [("hat", hat)]
        else:
            lines = [("kick", kick), ("snare", "" if section.kind == "intro" else snare), ("hat", hat)]
        for bar in range(1, len(section.chords) + 1):
            if bar == len(section.chords) and section.kind != "outro":
                lines = [*((name, line[:8]) for name, line in lines), *fill]
            for name, line in lines:
                for step, mark in enumerate(line):
                    if mark != ".":
                        yield name, beat + step / 4, level * (0.45 if mark == "o" else 1.0)
            beat += BEATS_PER_BAR
    yield "crash", beat, 0.7
    yield "kick", beat, 0.9


def _played(score: Score, instrument: Instrument, notes: Notes) -> Track:
    sound, track = cache(instrument), Track(score.duration_s)
    for start_s, pitch, length_s, gain, pan in notes:
        track.add(start_s, sound(pitch, length_s), gain, pan)
    return track


def _bass(score: Score, patterns: list[str]) -> Notes:
    for section, bar, chord in _bars(score):
        root = BASS_LOW + (chord[0] - BASS_LOW) % 12
        for mark, start, length in _strikes(patterns[section.kind in LOUD]):
            pitch = root + {"r": 0, "5": 7, "8": 12}[mark]
            start_s = score.seconds(bar * BEATS_PER_BAR + start)
            yield start_s, pitch, _length_s(score, 0.92 * length), LEVELS[section.kind], 0.0
    yield from _ringing(score, (BASS_LOW + (score.key.tonic - BASS_LOW) % 12,))


def _chords(score: Score, patterns: list[str]) -> Notes:
    """Strummed or broken chords; low notes sit to the left, high ones to the right."""
    for section, bar, chord in _bars(score):
        pitches = voicing(chord, CHORD_LOW)
        for mark, start, length in _strikes(patterns[section.kind in LOUD]):
            hit = pitches if mark == "x" else (*pitches, pitches[0] + 12)[int(mark) : int(mark) + 1]
            for i, pitch in enumerate(hit):
                start_s = score.seconds(bar * BEATS_PER_BAR + start) + i * STRUM_S
                yield start_s, pitch, _length_s(score, length), LEVELS[section.kind], _pan(pitch)
    yield from _ringing(score, voicing(score.sections[-1].chords[-1], CHORD_LOW))


def _bed(score: Score, everywhere: bool) -> Notes:
    length_s = _length_s(score, BEATS_PER_BAR)
    for section, bar, chord in _bars(score):
        if everywhere or section.kind not in ("intro", "verse"):
            for pitch in voicing(chord, CHORD_LOW + 5):
                start_s, pan = score.seconds(bar * BEATS_PER_BAR), -1.5 * _pan(pitch)
                yield start_s, pitch, length_s, LEVELS[section.kind], pan


def _lead(score: Score) -> Notes:
    for note in score.lead:
        yield score.seconds(note.start), note.pitch, _length_s(score, 0.95 * note.length), 1.0, -0.2


def _ringing(score: Score, pitches: tuple[int, ...]) -> Notes:
    """The last chord, after the last bar."""
    for i, pitch in enumerate(pitches):
        yield score.seconds(score.bars * BEATS_PER_BAR) + i * STRUM_S, pitch, 2.0, 0.8, _pan(pitch)


def _bars(score: Score) -> Iterator[tuple[Section, int, Chord]]:
    for section in score.sections:
        for i, chord in enumerate(section.chords):
            yield section, section.first_bar + i, chord


def _length_s(score: Score, beats: float) -> float:
    return round(beats * 60.0 / score.tempo_bpm, 4)


@cache
def _strikes(pattern: str) -> tuple[tuple[str, float, float], ...]:
    """Strikes of a pattern of eighths: mark, start and length in beats."""
    strikes: list[tuple[str, float, float]] = []
    for step, mark in enumerate(pattern):
        if mark == "-":
            held, start, length = strikes.pop()
            strikes.append((held, start, length + 0.5))
        elif mark != ".":
            strikes.append((mark, step / 2, 0.5))
    return tuple(strikes)


def _pan(pitch: int) -> float:
    return 0.4 * float(np.clip((pitch - CHORD_LOW - 6) / 8, -1.0, 1.0))
