"""Melodies over chords: a theme (rhythm and contour) becomes notes once it meets the harmony."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samuel.demo.harmony import Chord, Key, nearest

BEATS_PER_BAR = 4
PHRASE_BEATS = 2 * BEATS_PER_BAR

Cell = tuple[float, ...]

# Bars of note lengths in beats; a negative length is a rest. Slow songs sing the dense ones.
DENSE_OPENINGS: tuple[Cell, ...] = (
    (0.5, 0.5, 1, 0.5, 0.5, 1), (-0.5, 0.5, 0.5, 0.5, 1, 0.5, 0.5), (0.75, 0.75, 0.5, 0.5, 0.5, 1),
    (0.5, 0.5, 0.5, 0.5, 1, 1), (1, 0.5, 0.5, 0.75, 0.75, 0.5), (-0.5, 0.5, 0.5, 1, 0.5, 1),
)  # fmt: skip
SPARSE_OPENINGS: tuple[Cell, ...] = (
    (1, 1, 1, 1), (1.5, 0.5, 1, 1), (-1, 1, 1, 1), (1, 0.5, 0.5, 1, 1), (2, 1, 1), (1.5, 1.5, 1),
    (-0.5, 0.5, 1, 1, 1), (1, 1.5, 0.5, 1),
)  # fmt: skip
DENSE_CLOSINGS: tuple[Cell, ...] = (
    (0.5, 0.5, 2, -1), (1, 0.5, 1.5, -1), (0.5, 0.5, 0.5, 1.5, -1), (0.75, 0.75, 1.5, -1), (1, 2, -1),
)  # fmt: skip
SPARSE_CLOSINGS: tuple[Cell, ...] = ((1, 1.5, -1.5), (3, -1), (1, 2, -1), (0.5, 0.5, 2, -1), (1.5, 1.5, -1))


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


@dataclass(frozen=True)
class Theme:
    """Two bars without harmony.

    Attributes:
        onsets: Beats from the start of the phrase.
        lengths: Beats.
        contour: Semitones about the voice's centre, one per note; the harmony rounds them.
    """

    onsets: tuple[float, ...]
    lengths: tuple[float, ...]
    contour: tuple[float, ...]


def draw_theme(rng: np.random.Generator, dense: bool) -> Theme:
    """An opening and a closing bar under an arch, a fall or a rise."""
    openings, closings = (DENSE_OPENINGS, DENSE_CLOSINGS) if dense else (SPARSE_OPENINGS, SPARSE_CLOSINGS)
    cells = np.array(openings[rng.integers(len(openings))] + closings[rng.integers(len(closings))])
    onsets = np.cumsum(np.abs(cells)) - np.abs(cells)
    sounding = cells > 0
    place = onsets[sounding] / PHRASE_BEATS
    arch, slope = rng.uniform(-2.0, 5.0), rng.uniform(-5.0, 3.0)
    contour = arch * np.sin(np.pi * place) + slope * (place - 0.5) + rng.normal(0.0, 1.3, place.size)
    return Theme(tuple(onsets[sounding].tolist()), tuple(cells[sounding].tolist()), tuple(contour.tolist()))


def realise(theme: Theme, key: Key, chords: Sequence[Chord], start: float, centre: float) -> Phrase:
    """Notes of a theme over two bars of chords.

    Accented and long notes take chord tones, the others pass through the scale; so the chords can be heard
    from the melody alone.
    """
    notes: list[Note] = []
    for i, (onset, length, offset) in enumerate(zip(theme.onsets, theme.lengths, theme.contour, strict=True)):
        chord = chords[int(onset // BEATS_PER_BAR)]
        accented = onset % 2 == 0 or length >= 1 or i == len(theme.onsets) - 1
        classes = frozenset(chord.tones) if accented else key.scale_over(chord)
        pitch = nearest(classes, centre + offset, notes[-1].pitch if notes else None)
        notes.append(Note(start + onset, length, pitch))
    return tuple(notes)
