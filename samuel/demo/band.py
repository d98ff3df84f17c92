"""The band: an arrangement is drawn for the song, then each part plays the score onto its own track.

Patterns are strings, a character a step: '-' holds the note before, '.' is a rest, anything else strikes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from samuel.audio import Audio
from samuel.demo.drums import FILLS, GROOVES, PANS, Groove, draw_kit
from samuel.demo.harmony import Chord
from samuel.demo.instruments import BASSES, BEDS, CHORDS, LEADS, Instrument
from samuel.demo.melody import BEATS_PER_BAR
from samuel.demo.room import Track, loudness, mono, reverberation
from samuel.demo.score import Kind, Score, Section

BASS_PATTERNS = (
    "r-------",
    "r---r-5-",
    "r-r-r-r-",
    "rrrrrrrr",
    "r--r--5-",
    "r-8-r-8-",
    "r--r-5-8",
    "r-----r5",
)
STRIKE_PATTERNS = ("x---x---", "x-x-x-x-", "x-xx-xxx", "x--x--x-", "..x-..x-", "x-.x-.x-", "x-xx.xx-")
ARPEGGIO_PATTERNS = ("01232123", "02130213", "0-1-2-1-", "01210121", "0-12-12-")
LEVELS: dict[Kind, float] = {
    "intro": 0.6, "verse": 0.75, "chorus": 1.0, "break": 0.7, "solo": 0.95, "outro": 0.7,
}  # fmt: skip
CHORD_LOW, BASS_LOW = 54, 28
STRUM_S = 0.013


@dataclass(frozen=True)
class Arrangement:
    """Who plays what.

    Attributes:
        groove: The drums' bar.
        fill: Index into `FILLS`.
        bass: Its instrument; one pattern for quiet sections and one for loud ones.
        chords: The instrument that plays the chords, with its two patterns.
        bed: A sustained layer; `bed_everywhere` or in loud sections alone.
        lead: Plays the solo.
        drums_from: The first section with drums.
    """

    groove: Groove
    fill: int
    bass: tuple[Instrument, str, str]
    chords: tuple[Instrument, str, str]
    bed: Instrument
    bed_everywhere: bool
    lead: Instrument
    drums_from: int


def draw_arrangement(rng: np.random.Generator) -> Arrangement:
    """An arrangement."""
    quiet, loud = rng.choice(STRIKE_PATTERNS, size=2, replace=False)
    if rng.random() < 0.5:
        quiet = rng.choice(ARPEGGIO_PATTERNS)
    basses = rng.choice(BASS_PATTERNS, size=2, replace=False)
    return Arrangement(
        groove=GROOVES[rng.integers(len(GROOVES))],
        fill=int(rng.integers(len(FILLS))),
        bass=(_pick(rng, BASSES), str(basses[0]), str(basses[1])),
        chords=(_pick(rng, CHORDS), str(quiet), str(loud)),
        bed=_pick(rng, BEDS),
        bed_everywhere=bool(rng.random() < 0.4),
        lead=_pick(rng, LEADS),
        drums_from=int(rng.integers(2)),
    )


def play(rng: np.random.Generator, score: Score) -> Audio:
    """The accompaniment of a score, (2, S), with a peak below 1."""
    plan = draw_arrangement(rng)
    parts = {
        "drums": (_drums(rng, score, plan), 1.0, 0.15),
        "bass": (_bass(score, plan), 0.8, 0.03),
        "chords": (_chords(score, plan), rng.uniform(0.6, 0.85), 0.4),
        "bed": (_bed(score, plan), rng.uniform(0.3, 0.5), 0.45),
        "lead": (_lead(score, plan), 0.6, 0.45),
    }
    dry = np.zeros_like(parts["drums"][0].audio)
    send = np.zeros(dry.shape[1], np.float32)
    for track, level, wetness in parts.values():
        gain = level / max(loudness(track.audio), 1e-6)  # a part may be silent
        dry += np.float32(gain) * track.audio
        send += np.float32(gain * wetness) * mono(track.audio)
    wet = reverberation(rng, send, decay_s=rng.uniform(0.7, 1.3), predelay_s=0.02)
    # The tape of the mix: round the drums' peaks rather than turn the song down for them.
    dry += wet
    return np.tanh(np.float32(0.22) * dry)


def _drums(rng: np.random.Generator, score: Score, plan: Arrangement) -> Track:
    kit, track, groove = draw_kit(rng), Track(score.duration_s), plan.groove
    gains = {"kick": 1.0, "snare": 0.8, "hat": 0.3, "open": 0.25, "crash": 0.4, "tom": 0.8, "low_tom": 0.9}
    for name, beat, strength in _strokes(score, groove, plan):
        gain = gains[name] * strength * rng.uniform(0.88, 1.0)
        track.add(score.seconds(beat) + rng.uniform(0.0, 0.004), kit[name], gain, PANS[name])
    return track


def _strokes(score: Score, groove: Groove, plan: Arrangement) -> Iterator[tuple[str, float, float]]:
    """Every stroke: drum, beat, strength."""
    for section in score.sections[plan.drums_from :]:
        loud = section.kind in ("chorus", "solo")
        lines = [
            ("kick", groove.loud_kick if loud else groove.kick),
            ("snare", "" if section.kind == "intro" else groove.snare),
            ("open" if loud and "." in groove.loud_hat else "hat", groove.loud_hat if loud else groove.hat),
        ]
        if section.kind == "break":
            lines = lines[2:]
        first = section.first_bar * BEATS_PER_BAR
        if loud:
            yield "crash", first, 1.0
        for bar in range(len(section.chords)):
            filling = bar == len(section.chords) - 1 and section.kind != "outro"
            yield from _bar(lines, first + bar * BEATS_PER_BAR, LEVELS[section.kind], filling, plan.fill)
    yield "crash", score.bars * BEATS_PER_BAR, 0.7
    yield "kick", score.bars * BEATS_PER_BAR, 0.9


def _bar(
    lines: list[tuple[str, str]], first: float, level: float, filling: bool, fill: int
) -> Iterator[tuple[str, float, float]]:
    """One bar; a fill takes its second half."""
    steps = [(name, line[:8] if filling else line) for name, line in lines]
    for name, line in [*steps, *(FILLS[fill] if filling else ())]:
        for step, mark in enumerate(line):
            if mark != ".":
                yield name, first + step / 4, level * (0.45 if mark == "o" else 1.0)


def _bass(score: Score, plan: Arrangement) -> Track:
    instrument, quiet, loud = plan.bass
    note, track = cache(instrument), Track(score.duration_s)
    for section, bar, chord in _bars(score):
        root = BASS_LOW + (chord.root - BASS_LOW) % 12
        intervals = {"r": 0, "5": 7, "8": 12}
        for mark, start, length in _strikes(loud if section.kind in ("chorus", "solo") else quiet):
            length_s = round(0.92 * length * 60.0 / score.tempo_bpm, 4)
            sound = note(root + intervals[mark], length_s)
            track.add(score.seconds(bar * BEATS_PER_BAR + start), sound, LEVELS[section.kind])
    _ring(score, track, note, (BASS_LOW + (score.key.tonic - BASS_LOW) % 12,))
    return track


def _chords(score: Score, plan: Arrangement) -> Track:
    """Strummed or broken chords; low notes sit to the left, high ones to the right."""
    instrument, quiet, loud = plan.chords
    note, track = cache(instrument), Track(score.duration_s)
    for section, bar, chord in _bars(score):
        pitches = chord.voicing(CHORD_LOW)
        for mark, start, length in _strikes(loud if section.kind in ("chorus", "solo") else quiet):
            length_s = round(length * 60.0 / score.tempo_bpm, 4)
            struck = pitches if mark == "x" else (*pitches, pitches[0] + 12)[int(mark) : int(mark) + 1]
            for i, pitch in enumerate(struck):
                start_s = score.seconds(bar * BEATS_PER_BAR + start) + i * STRUM_S
                track.add(start_s, note(pitch, length_s), LEVELS[section.kind], _pan(pitch))
    _ring(score, track, note, score.sections[-1].chords[-1].voicing(CHORD_LOW))
    return track


def _bed(score: Score, plan: Arrangement) -> Track:
    note, track = cache(plan.bed), Track(score.duration_s)
    for section, bar, chord in _bars(score):
        if not plan.bed_everywhere and section.kind in ("intro", "verse"):
            continue
        for pitch in chord.voicing(CHORD_LOW + 5):
            length_s = round(BEATS_PER_BAR * 60.0 / score.tempo_bpm, 4)
            start_s = score.seconds(bar * BEATS_PER_BAR)
            track.add(start_s, note(pitch, length_s), LEVELS[section.kind], -1.5 * _pan(pitch))
    return track


def _lead(score: Score, plan: Arrangement) -> Track:
    note, track = cache(plan.lead), Track(score.duration_s)
    for tone in score.lead:
        length_s = round(0.95 * tone.length * 60.0 / score.tempo_bpm, 4)
        track.add(score.seconds(tone.start), note(tone.pitch, length_s), 1.0, -0.2)
    return track


def _ring(score: Score, track: Track, note: Instrument, pitches: tuple[int, ...]) -> None:
    """The last chord, after the last bar."""
    for i, pitch in enumerate(pitches):
        track.add(score.seconds(score.bars * BEATS_PER_BAR) + i * STRUM_S, note(pitch, 2.0), 0.8, _pan(pitch))


def _bars(score: Score) -> Iterator[tuple[Section, int, Chord]]:
    for section in score.sections:
        for i, chord in enumerate(section.chords):
            yield section, section.first_bar + i, chord


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


def _pick(rng: np.random.Generator, table: dict[str, Instrument]) -> Instrument:
    return table[str(rng.choice(list(table)))]
