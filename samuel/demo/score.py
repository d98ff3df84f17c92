"""The score of a song: key, tempo, form, chords, what is sung and what the lead instrument plays."""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from samuel.demo.harmony import Chord, Key, draw_progressions
from samuel.demo.melody import BEATS_PER_BAR, PHRASE_BEATS, Note, Phrase, Theme, draw_theme, realise

Kind = Literal["intro", "verse", "chorus", "break", "solo", "outro"]

BLOCK_BARS = 4
TAIL_S = 2.5  # the last chord rings
SHORTEST_S, LONGEST_S = 104.0, 146.0
SLOWEST_BPM, FASTEST_BPM = 70, 140
GOLDEN = 0.6180339887498949

# The form, and how many blocks of four bars each section may last.
FORM: tuple[tuple[Kind, tuple[int, ...]], ...] = (
    ("intro", (1, 2)),
    ("verse", (1, 2, 3, 4)),
    ("chorus", (1, 2)),
    ("break", (0, 1)),
    ("verse", (1, 2, 3)),
    ("chorus", (1, 2)),
    ("solo", (1, 2)),
    ("chorus", (1, 2)),
    ("outro", (1, 2)),
)
SUNG_KINDS = ("verse", "chorus")


@dataclass(frozen=True)
class Section:
    """A section: its kind, its first bar and its chords, one per bar."""

    kind: Kind
    first_bar: int
    chords: tuple[Chord, ...]


@dataclass(frozen=True)
class Score:
    """Everything that is played, before it sounds.

    Attributes:
        tempo_bpm: Quarter notes per minute.
        swing: Delay of the off-beat eighth, in beats.
        key: Key of the whole song.
        voice_centre: MIDI pitch around which the verse is sung.
        sections: In order, without gaps.
        phrases: Sung phrases, in order.
        lead: Notes of the lead instrument, where nobody sings.
    """

    tempo_bpm: float
    swing: float
    key: Key
    voice_centre: int
    sections: tuple[Section, ...]
    phrases: tuple[Phrase, ...]
    lead: tuple[Note, ...]

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
    """Write the score of song `index` of `seed`.

    Key and tempo step through their ranges with the index, so that even a few songs differ in both.
    """
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
    lengths = _draw_lengths(rng, tempo_bpm)
    verse, chorus, solo = draw_progressions(rng, key, sevenths=bool(rng.random() < 0.35))
    progressions: dict[Kind, tuple[Chord, ...]] = {
        "intro": verse if rng.random() < 0.6 else chorus, "verse": verse, "chorus": chorus,
        "break": verse, "solo": solo if rng.random() < 0.5 else chorus, "outro": chorus,
    }  # fmt: skip
    sections: list[Section] = []
    first_bar = 0
    for (kind, _), blocks in zip(FORM, lengths, strict=True):
        chords = progressions[kind] * blocks
        if kind == "outro":
            chords = (*chords[:-1], key.chord("i" if key.minor else "I"))
        if blocks:
            sections.append(Section(kind, first_bar, chords))
        first_bar += len(chords)
    return tuple(sections)


def _draw_lengths(rng: np.random.Generator, tempo_bpm: float) -> tuple[int, ...]:
    """Blocks per section, among all forms of a fitting duration and a natural share of singing."""
    block_s = BLOCK_BARS * BEATS_PER_BAR * 60.0 / tempo_bpm
    sung = [i for i, (kind, _) in enumerate(FORM) if kind in SUNG_KINDS]
    fitting: list[tuple[int, ...]] = []
    for lengths in itertools.product(*(choices for _, choices in FORM)):
        total = sum(lengths)
        share = sum(lengths[i] for i in sung) / total
        if SHORTEST_S <= total * block_s + TAIL_S <= LONGEST_S and 0.54 <= share <= 0.72:
            fitting.append(lengths)
    return fitting[rng.integers(len(fitting))]


def _draw_themes(rng: np.random.Generator, tempo_bpm: float) -> tuple[Theme, Theme, Theme]:
    dense = tempo_bpm < 100
    first, second, ending = (draw_theme(rng, dense) for _ in range(3))
    return first, (first if rng.random() < 0.4 else second), ending


def _melody(section: Section, key: Key, themes: tuple[Theme, Theme, Theme], centre: int) -> list[Phrase]:
    """Phrases of a section: its two themes in turn, every fourth phrase the ending; a chorus lies higher."""
    first, second, ending = themes
    lift = 4.0 if section.kind == "chorus" else 0.0
    phrases: list[Phrase] = []
    for i in range(len(section.chords) // 2):
        theme = (first, second, first, ending)[i % 4]
        start = section.first_bar * BEATS_PER_BAR + i * PHRASE_BEATS
        phrases.append(realise(theme, key, section.chords[2 * i : 2 * i + 2], start, centre + lift))
    return phrases
