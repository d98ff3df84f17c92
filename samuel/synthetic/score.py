"""The score of a song: key, tempo, form, chords, what is sung and what the lead instrument plays.

A pitch class is 0 to 11 from C; a pitch is a MIDI number. A theme becomes notes once it meets the harmony.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
MINOR_SCALE = (0, 2, 3, 5, 7, 8, 10)
MAJOR_PROGRESSIONS = (
    "I V vi IV", "vi IV I V", "I vi IV V", "I IV vi V", "IV V iii vi", "I iii IV V", "I bVII IV I",
    "ii V I vi", "I IV I V", "vi ii V I", "IV I V vi",
)  # fmt: skip
MINOR_PROGRESSIONS = (
    "i VI III VII", "i VII VI VII", "i iv VII III", "VI VII i i", "i VI iv V", "i III VII iv", "iv i V i",
    "i v VI VII", "i iv VI V", "VI III VII i",
)  # fmt: skip
Chord = tuple[int, ...]  # pitch classes, the root first


def voicing(chord: Chord, low: int) -> tuple[int, ...]:
    """Pitches of a chord in the octave from `low` on: inner voices move by the smallest steps."""
    return tuple(sorted(low + (tone - low) % 12 for tone in chord))


@dataclass(frozen=True)
class Key:
    """A tonic (pitch class) and a mode."""

    tonic: int
    minor: bool

    def __str__(self) -> str:
        return f"{TONICS[self.tonic]} {'minor' if self.minor else 'major'}"

    @property
    def scale(self) -> tuple[int, ...]:
        """The seven pitch classes, natural minor in the minor."""
        return tuple((self.tonic + step) % 12 for step in (MINOR_SCALE if self.minor else MAJOR_SCALE))

    def chord(self, numeral: str, sevenths: bool = False) -> Chord:
        """The chord of a Roman numeral: upper case major, lower case minor, a leading b lowers the root."""
        name = numeral.removeprefix("b")
        root = (self.scale[NUMERALS.index(name.upper())] - (numeral != name)) % 12
        third = 4 if name.isupper() else 3
        # The seventh of the scale; a dominant that leaves the scale gets its minor seventh.
        seventh = 11 if (root + 11) % 12 in self.scale and (root + 10) % 12 not in self.scale else 10
        steps = (0, third, 7, seventh) if sevenths else (0, third, 7)
        return tuple((root + step) % 12 for step in steps)

    def scale_over(self, chord: Chord) -> frozenset[int]:
        """The scale, each borrowed tone (V and IV in the minor, bVII) in the place of the degree it bends."""
        borrowed = set(chord) - set(self.scale)
        bent = {(tone + (-1 if self.minor else 1)) % 12 for tone in borrowed}
        return frozenset((set(self.scale) - bent) | borrowed)


BEATS_PER_BAR = 4
PHRASE_BEATS = 2 * BEATS_PER_BAR

# Bars of note lengths in beats; a negative length is a rest. Slow songs sing the dense ones.
Cells = tuple[tuple[float, ...], ...]
DENSE_OPENINGS: Cells = (
    (0.5, 0.5, 1, 0.5, 0.5, 1), (-0.5, 0.5, 0.5, 0.5, 1, 0.5, 0.5), (0.75, 0.75, 0.5, 0.5, 0.5, 1),
    (0.5, 0.5, 0.5, 0.5, 1, 1), (1, 0.5, 0.5, 0.75, 0.75, 0.5), (-0.5, 0.5, 0.5, 1, 0.5, 1),
)  # fmt: skip
SPARSE_OPENINGS: Cells = (
    (1, 1, 1, 1), (1.5, 0.5, 1, 1), (-1, 1, 1, 1), (1, 0.5, 0.5, 1, 1), (2, 1, 1), (1.5, 1.5, 1),
    (-0.5, 0.5, 1, 1, 1), (1, 1.5, 0.5, 1),
)  # fmt: skip
DENSE_CLOSINGS: Cells = (
    (0.5, 0.5, 2, -1), (1, 0.5, 1.5, -1), (0.5, 0.5, 0.5, 1.5, -1), (0.75, 0.75, 1.5, -1), (1, 2, -1),
)  # fmt: skip
SPARSE_CLOSINGS: Cells = ((1, 1.5, -1.5), (3, -1), (1, 2, -1), (0.5, 0.5, 2, -1), (1.5, 1.5, -1))


@dataclass(frozen=True)
class Note:
    """A note: start and length in beats, MIDI pitch."""

    start: float
    length: float
    pitch: int

    @property
    def end(self) -> float:
        """Where it ends, in beats."""
        return self.start + self.length


Phrase = tuple[Note, ...]
# Two bars without harmony: onset and length of each note in beats, semitones about the voice's centre.
Theme = tuple[tuple[float, float, float], ...]


def draw_theme(rng: np.random.Generator, dense: bool) -> Theme:
    """An opening and a closing bar under an arch, a fall or a rise."""
    openings, closings = (DENSE_OPENINGS, DENSE_CLOSINGS) if dense else (SPARSE_OPENINGS, SPARSE_CLOSINGS)
    cells = np.array(openings[rng.integers(len(openings))] + closings[rng.integers(len(closings))])
    onsets = np.cumsum(np.abs(cells)) - np.abs(cells)
    sounding = cells > 0
    place = onsets[sounding] / PHRASE_BEATS
    arch, slope = rng.uniform(-2.0, 5.0), rng.uniform(-5.0, 3.0)
    contour = arch * np.sin(np.pi * place) + slope * (place - 0.5) + rng.normal(0.0, 1.3, place.size)
    notes = zip(onsets[sounding].tolist(), cells[sounding].tolist(), contour.tolist(), strict=True)
    return tuple(notes)


Kind = Literal["intro", "verse", "chorus", "break", "solo", "outro"]
BLOCK_BARS = 4
TAIL_S = 2.5  # the last chord rings
SHORTEST_S, LONGEST_S = 104.0, 146.0
SLOWEST_BPM, FASTEST_BPM = 70, 140
GOLDEN = 0.6180339887498949
# The form, and how many blocks of four bars each section may last.
FORM: tuple[tuple[Kind, tuple[int, ...]], ...] = (
    ("intro", (1, 2)), ("verse", (1, 2, 3, 4)), ("chorus", (1, 2)), ("break", (0, 1)), ("verse", (1, 2, 3)),
    ("chorus", (1, 2)), ("solo", (1, 2)), ("chorus", (1, 2)), ("outro", (1, 2)),
)  # fmt: skip
SUNG_KINDS = ("verse", "chorus")


@dataclass(frozen=True)
class Section:
    """A section: its kind, its first bar and its chords, one per bar."""

    kind: Kind
    first_bar: int
    chords: tuple[Chord, ...]


@dataclass(frozen=True)
class Score:
    """Everything that is played, before it sounds."""

    tempo_bpm: float
    swing: float  # delay of the off-beat eighth, in beats
    key: Key
    voice_centre: int  # MIDI pitch around which the verse is sung
    sections: tuple[Section, ...]  # in order, without gaps
    phrases: tuple[Phrase, ...]  # sung
    lead: tuple[Note, ...]  # of the lead instrument, where nobody sings

    @property
    def bars(self) -> int:
        """Number of bars."""
        return self.sections[-1].first_bar + len(self.sections[-1].chords)

    @property
    def duration_s(self) -> float:
        """Length with the ringing of the last chord."""
        return self.seconds(self.bars * BEATS_PER_BAR) + TAIL_S

    def seconds(self, beat: float) -> float:
        """Time of a beat, swung."""
        whole, part = divmod(beat, 1.0)
        off = 0.5 + self.swing
        swung = part * off / 0.5 if part < 0.5 else off + (part - 0.5) * (1.0 - off) / 0.5
        return (whole + swung) * 60.0 / self.tempo_bpm


def write_score(seed: int, index: int) -> Score:
    """Write the score of song `index` of `seed`; key and tempo step through their ranges with the index."""
    rng, offset = np.random.default_rng([seed, index]), np.random.default_rng(seed)
    key_number = (int(offset.integers(24)) + 7 * index) % 24
    place = (offset.random() + GOLDEN * index) % 1.0
    tempo_bpm = float(SLOWEST_BPM + int(place * (FASTEST_BPM - SLOWEST_BPM + 1)))
    key = Key(key_number // 2, minor=key_number % 2 == 1)
    centre = int(rng.integers(52, 67))
    sections = _draw_sections(rng, key, tempo_bpm)
    swing = float(rng.choice([0.0, 0.0, 0.0, 0.08, 0.15]))
    themes = {kind: _draw_themes(rng, tempo_bpm) for kind in ("verse", "chorus", "solo")}
    phrases = [p for s in sections if s.kind in SUNG_KINDS for p in _melody(s, key, themes[s.kind], centre)]
    leading: list[Kind] = ["solo", "intro"] if rng.random() < 0.6 else ["solo"]
    lead = [n for s in sections if s.kind in leading for p in _melody(s, key, themes["solo"], 67) for n in p]
    return Score(tempo_bpm, swing, key, centre, sections, tuple(phrases), tuple(lead))


def _draw_sections(rng: np.random.Generator, key: Key, tempo_bpm: float) -> tuple[Section, ...]:
    # How long each section lasts, among all forms of a fitting duration and a natural share of singing.
    block_s = BLOCK_BARS * BEATS_PER_BAR * 60.0 / tempo_bpm
    forms: list[tuple[int, ...]] = []
    for blocks in itertools.product(*(choices for _, choices in FORM)):
        sung = sum(count for count, (kind, _) in zip(blocks, FORM, strict=True) if kind in SUNG_KINDS)
        fits = SHORTEST_S <= sum(blocks) * block_s + TAIL_S <= LONGEST_S
        if fits and 0.54 <= sung / sum(blocks) <= 0.72:
            forms.append(blocks)
    form = forms[rng.integers(len(forms))]
    sevenths = bool(rng.random() < 0.35)
    table = MINOR_PROGRESSIONS if key.minor else MAJOR_PROGRESSIONS
    chosen = rng.choice(len(table), size=3, replace=False)
    verse, chorus, solo = (tuple(key.chord(name, sevenths) for name in table[i].split()) for i in chosen)
    progressions: dict[Kind, tuple[Chord, ...]] = {
        "intro": verse if rng.random() < 0.6 else chorus, "verse": verse, "chorus": chorus,
        "break": verse, "solo": solo if rng.random() < 0.5 else chorus, "outro": chorus,
    }  # fmt: skip
    sections: list[Section] = []
    first_bar = 0
    for (kind, _), blocks in zip(FORM, form, strict=True):
        chords = progressions[kind] * blocks
        if kind == "outro":
            chords = (*chords[:-1], key.chord("i" if key.minor else "I"))
        if blocks:
            sections.append(Section(kind, first_bar, chords))
        first_bar += len(chords)
    return tuple(sections)


def _draw_themes(rng: np.random.Generator, tempo_bpm: float) -> list[Theme]:
    """Four phrases: two themes in turn, and every fourth time the ending."""
    first, second, ending = (draw_theme(rng, tempo_bpm < 100) for _ in range(3))
    return [first, first if rng.random() < 0.4 else second, first, ending]


def _melody(section: Section, key: Key, themes: list[Theme], centre: int) -> list[Phrase]:
    """Phrases of a section, whose chords can be heard from them alone; a chorus lies higher.

    Accented and long notes take the nearest chord tones, the others pass through the scale; each is drawn a
    little towards the note before.
    """
    middle = centre + (4.0 if section.kind == "chorus" else 0.0)
    phrases: list[Phrase] = []
    for i in range(len(section.chords) // 2):
        start = section.first_bar * BEATS_PER_BAR + i * PHRASE_BEATS
        theme, notes = themes[i % 4], list[Note]()
        for onset, length, offset in theme:
            chord, target = section.chords[2 * i + int(onset // BEATS_PER_BAR)], middle + offset
            accented = onset % 2 == 0 or length >= 1 or len(notes) == len(theme) - 1
            classes = frozenset(chord) if accented else key.scale_over(chord)
            before = float(notes[-1].pitch) if notes else target
            pitches = [p for p in range(round(target) - 9, round(target) + 10) if p % 12 in classes]
            distances = [(abs(pitch - target) + 0.35 * abs(pitch - before), pitch) for pitch in pitches]
            notes.append(Note(start + onset, length, min(distances)[1]))
        phrases.append(tuple(notes))
    return phrases
