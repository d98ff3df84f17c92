"""The band: an arrangement is drawn for the song, then each part plays the score onto its own track.

An instrument is a pure function from a MIDI pitch and a length in seconds to a mono note, (S,). A kit of
drums is drawn for the song; a groove has sixteen steps a bar. Patterns are strings, a character a step: '-'
holds the note before, '.' is a rest, anything else strikes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

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
    """An instrument of at most `most` partials: n dies at rate `decay` + n `damping`, in 1/s.

    `amplitudes` gives those of the partials n of a tone of f Hz.
    """

    def note(pitch: int, length_s: float) -> Signal:
        t, f = _time(length_s + RELEASE_S), hertz(pitch)
        sound = _partials(t, f, amplitudes(_harmonics(pitch, most), f), damping) * np.exp(-decay * t)
        return _shaped(sound, attack_s=0.004, release_s=RELEASE_S)

    return note


def pad(pitch: int, length_s: float) -> Signal:
    """Three detuned saws through a dark filter, slow to speak."""
    n = _harmonics(pitch, 16)
    amplitudes = np.exp(-n * hertz(pitch) / 1600.0) / n
    voices = [_partials(_time(length_s + 0.3), hertz(pitch) * d, amplitudes) for d in (0.9965, 1.0, 1.0041)]
    return _shaped(np.sum(voices, axis=0), attack_s=0.18, release_s=0.4)


def strings(pitch: int, length_s: float) -> Signal:
    """Bowed strings: a bright saw with a moderate attack and a light vibrato."""
    n = _harmonics(pitch, 22)
    amplitudes = np.exp(-n * hertz(pitch) / 3500.0) / n
    t = _time(length_s + 0.2)
    voices = [
        _partials(t + 4e-5 * depth * np.sin(2.0 * np.pi * rate * t), hertz(pitch) * detune, amplitudes)
        for detune, rate, depth in ((0.998, 5.1, 1.0), (1.0025, 4.6, 1.3))
    ]
    return _shaped(np.sum(voices, axis=0), attack_s=0.09, release_s=0.25)


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
    drawbars = np.array([0.8, 0.8, 0.8, 0.6, 0.0, 0.4, 0.0, 0.3])
    t = _time(length_s + RELEASE_S)
    turning = t + 5e-5 * np.sin(2.0 * np.pi * 1.1 * t)
    sound = _partials(turning, hertz(pitch), drawbars) * (1.0 + 0.1 * np.sin(2.0 * np.pi * 1.1 * t))
    return _shaped(sound, attack_s=0.008, release_s=0.06)


def flute(pitch: int, length_s: float) -> Signal:
    """A lead with few partials and a vibrato that grows."""
    t = _time(length_s + RELEASE_S)
    wobble = 3e-4 * np.clip(t - 0.2, 0.0, 0.5) * np.sin(2.0 * np.pi * 4.9 * t)
    sound = _partials(t + wobble, hertz(pitch), np.array([1.0, 0.35, 0.16, 0.05]))
    return _shaped(sound, attack_s=0.05, release_s=0.08)


# A steel string plucked at a fifth of its length, a soft one near its middle; a square-like lead, bright at
# first; a bass played with the fingers, a round one with a little growl, a saw whose filter closes.
pluck = struck(28, lambda n, _: np.sin(np.pi * n / 5.0) / n**1.2, decay=0.9, damping=0.5)
nylon = struck(14, lambda n, _: np.sin(np.pi * n / 2.6) / n**1.7, decay=1.6, damping=0.8)
synth_lead = struck(24, lambda n, _: np.where(n % 2 == 1, 1.0, 0.25) / n, decay=0.4, damping=0.12)
finger_bass = struck(18, lambda n, _: np.sin(np.pi * n / 3.7) / n**1.3, decay=0.7, damping=0.45)
sub_bass = struck(10, lambda n, _: 1.0 / n**2.2, decay=0.25, damping=0.15)
saw_bass = struck(30, lambda n, f: np.exp(-n * f / 1800.0) / n, decay=0.6, damping=0.7)
CHORDS = {"pluck": pluck, "nylon": nylon, "electric_piano": electric_piano, "organ": organ}
BEDS = {"pad": pad, "strings": strings, "organ": organ}
LEADS = {"flute": flute, "synth_lead": synth_lead, "pluck": pluck}
BASSES = {"finger": finger_bass, "sub": sub_bass, "saw": saw_bass}


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


class Groove(NamedTuple):
    """Steps of a bar, 'x' a stroke, 'o' a soft one, for the verse and for the chorus."""

    kick: str
    snare: str
    hat: str
    loud_kick: str
    loud_hat: str


GROOVES = [
    Groove(*bars.split())
    for bars in (
        "x.......x....... ....x.......x... x.o.x.o.x.o.x.o. x.....x.x....... x.x.x.x.x.x.x.x.",
        "x...x...x...x... ....x.......x... ..x...x...x...x. x...x...x...x... o.x.o.x.o.x.o.x.",
        "x.........x..... ........x....... x...o...x...o... x.....x...x..... x.o.x.o.x.o.x.o.",
        "x..x......x..... ....x..o.o..x..o xoxoxoxoxoxoxoxo x..x..x...x..x.. xoxoxoxoxoxoxoxo",
        "x......xx....... ....x.......x... x.x.x.x.x.x.x.x. x......xx.x..... xoxoxoxoxoxoxoxo",
        "x.....x.....x... ....o.......x... x.ox.ox.x.ox.ox. x.....x...x.x... x.xx.xx.x.xx.xx.",
    )
]
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


def draw_kit(rng: np.random.Generator) -> dict[str, Signal]:
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
    wires = _noise_band(rng, t.size, 1200.0, 9000.0) * np.exp(-t / decay_s)
    return _peaked(0.7 * skin + wires)


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


@dataclass(frozen=True)
class Arrangement:
    """Who plays what; instruments with patterns have one for quiet sections and one for loud ones."""

    groove: Groove
    fill: int
    bass: tuple[Instrument, str, str]
    chords: tuple[Instrument, str, str]
    bed: Instrument  # a sustained layer, everywhere or in loud sections alone
    bed_everywhere: bool
    lead: Instrument  # plays the solo
    drums_from: int  # the first section with drums


def draw_arrangement(rng: np.random.Generator) -> Arrangement:
    """An arrangement."""

    def pick(table: dict[str, Instrument]) -> Instrument:
        return table[str(rng.choice(list(table)))]

    quiet, loud = rng.choice(STRIKE_PATTERNS, size=2, replace=False)
    if rng.random() < 0.5:
        quiet = rng.choice(ARPEGGIO_PATTERNS)
    basses = rng.choice(BASS_PATTERNS, size=2, replace=False)
    return Arrangement(
        groove=GROOVES[rng.integers(len(GROOVES))],
        fill=int(rng.integers(len(FILLS))),
        bass=(pick(BASSES), str(basses[0]), str(basses[1])),
        chords=(pick(CHORDS), str(quiet), str(loud)),
        bed=pick(BEDS),
        bed_everywhere=bool(rng.random() < 0.4),
        lead=pick(LEADS),
        drums_from=int(rng.integers(2)),
    )


def play(rng: np.random.Generator, score: Score) -> Audio:
    """The accompaniment of a score, (2, S), with a peak below 1."""
    plan = draw_arrangement(rng)
    parts = [  # each with its level and its share of the room
        (_drums(rng, score, plan), 1.0, 0.15),
        (_bass(score, plan), 0.8, 0.03),
        (_chords(score, plan), rng.uniform(0.6, 0.85), 0.4),
        (_bed(score, plan), rng.uniform(0.3, 0.5), 0.45),
        (_lead(score, plan), 0.6, 0.45),
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


def _drums(rng: np.random.Generator, score: Score, plan: Arrangement) -> Track:
    kit, track = draw_kit(rng), Track(score.duration_s)
    for name, beat, strength in _strokes(score, plan):
        level, pan = DRUMS[name]
        gain = level * strength * rng.uniform(0.88, 1.0)
        track.add(score.seconds(beat) + rng.uniform(0.0, 0.004), kit[name], gain, pan)
    return track


def _strokes(score: Score, plan: Arrangement) -> Iterator[tuple[str, float, float]]:
    """Every stroke: drum, beat, strength. A fill takes the second half of a section's last bar."""
    groove = plan.groove
    for section in score.sections[plan.drums_from :]:
        loud, level = section.kind in LOUD, LEVELS[section.kind]
        lines = [
            ("kick", groove.loud_kick if loud else groove.kick),
            ("snare", "" if section.kind == "intro" else groove.snare),
            ("open" if loud and "." in groove.loud_hat else "hat", groove.loud_hat if loud else groove.hat),
        ]
        if section.kind == "break":
            lines = lines[2:]
        if loud:
            yield "crash", section.first_bar * BEATS_PER_BAR, 1.0
        for bar in range(len(section.chords)):
            first = (section.first_bar + bar) * BEATS_PER_BAR
            bar_lines = lines
            if bar == len(section.chords) - 1 and section.kind != "outro":
                bar_lines = [*((name, line[:8]) for name, line in lines), *FILLS[plan.fill]]
            for name, line in bar_lines:
                for step, mark in enumerate(line):
                    if mark != ".":
                        yield name, first + step / 4, level * (0.45 if mark == "o" else 1.0)
    yield "crash", score.bars * BEATS_PER_BAR, 0.7
    yield "kick", score.bars * BEATS_PER_BAR, 0.9


def _bass(score: Score, plan: Arrangement) -> Track:
    instrument, quiet, loud = plan.bass
    note, track = cache(instrument), Track(score.duration_s)
    for section, bar, chord in _bars(score):
        root = BASS_LOW + (chord[0] - BASS_LOW) % 12
        for mark, start, length in _strikes(loud if section.kind in LOUD else quiet):
            sound = note(root + {"r": 0, "5": 7, "8": 12}[mark], _length_s(score, 0.92 * length))
            track.add(score.seconds(bar * BEATS_PER_BAR + start), sound, LEVELS[section.kind])
    _ring(score, track, note, (BASS_LOW + (score.key.tonic - BASS_LOW) % 12,))
    return track


def _chords(score: Score, plan: Arrangement) -> Track:
    """Strummed or broken chords; low notes sit to the left, high ones to the right."""
    instrument, quiet, loud = plan.chords
    note, track = cache(instrument), Track(score.duration_s)
    for section, bar, chord in _bars(score):
        pitches = voicing(chord, CHORD_LOW)
        for mark, start, length in _strikes(loud if section.kind in LOUD else quiet):
            hit = pitches if mark == "x" else (*pitches, pitches[0] + 12)[int(mark) : int(mark) + 1]
            for i, pitch in enumerate(hit):
                start_s = score.seconds(bar * BEATS_PER_BAR + start) + i * STRUM_S
                track.add(start_s, note(pitch, _length_s(score, length)), LEVELS[section.kind], _pan(pitch))
    _ring(score, track, note, voicing(score.sections[-1].chords[-1], CHORD_LOW))
    return track


def _bed(score: Score, plan: Arrangement) -> Track:
    note, track, length_s = cache(plan.bed), Track(score.duration_s), _length_s(score, BEATS_PER_BAR)
    for section, bar, chord in _bars(score):
        if plan.bed_everywhere or section.kind not in ("intro", "verse"):
            for pitch in voicing(chord, CHORD_LOW + 5):
                start_s, pan = score.seconds(bar * BEATS_PER_BAR), -1.5 * _pan(pitch)
                track.add(start_s, note(pitch, length_s), LEVELS[section.kind], pan)
    return track


def _lead(score: Score, plan: Arrangement) -> Track:
    note, track = cache(plan.lead), Track(score.duration_s)
    for tone in score.lead:
        sound = note(tone.pitch, _length_s(score, 0.95 * tone.length))
        track.add(score.seconds(tone.start), sound, 1.0, -0.2)
    return track


def _ring(score: Score, track: Track, note: Instrument, pitches: tuple[int, ...]) -> None:
    """The last chord, after the last bar."""
    for i, pitch in enumerate(pitches):
        track.add(score.seconds(score.bars * BEATS_PER_BAR) + i * STRUM_S, note(pitch, 2.0), 0.8, _pan(pitch))


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
