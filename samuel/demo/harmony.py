"""Keys, chords and progressions. A pitch class is 0 to 11 from C; a pitch is a MIDI number."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Chord:
    """A chord as pitch classes, the root first."""

    tones: tuple[int, ...]

    @property
    def root(self) -> int:
        """Pitch class of the root."""
        return self.tones[0]

    def voicing(self, low: int) -> tuple[int, ...]:
        """Pitches of the tones within the octave that starts at `low`, ascending.

        A fixed octave keeps the inner voices moving by the smallest steps from chord to chord.
        """
        return tuple(sorted(low + (tone - low) % 12 for tone in self.tones))


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
        return Chord(tuple((root + step) % 12 for step in steps))

    def scale_over(self, chord: Chord) -> frozenset[int]:
        """The scale, each borrowed tone of the chord in the place of the degree that it bends.

        What the progressions borrow is raised in the minor (V, IV) and lowered in the major (bVII).
        """
        borrowed = {tone for tone in chord.tones if tone not in self.scale}
        bent = {(tone + (-1 if self.minor else 1)) % 12 for tone in borrowed}
        return frozenset((set(self.scale) - bent) | borrowed)


def nearest(classes: frozenset[int], target: float, previous: int | None, reach: int = 9) -> int:
    """The pitch of one of `classes` nearest to `target`, drawn a little towards the `previous` pitch."""
    candidates = [p for p in range(round(target) - reach, round(target) + reach + 1) if p % 12 in classes]
    anchor = target if previous is None else float(previous)
    return min(candidates, key=lambda pitch: (abs(pitch - target) + 0.35 * abs(pitch - anchor), pitch))


def draw_progressions(rng: np.random.Generator, key: Key, sevenths: bool) -> tuple[tuple[Chord, ...], ...]:
    """Three different progressions of four chords: verse, chorus and solo."""
    table = MINOR_PROGRESSIONS if key.minor else MAJOR_PROGRESSIONS
    chosen = rng.choice(len(table), size=3, replace=False)
    return tuple(tuple(key.chord(name, sevenths) for name in table[i].split()) for i in chosen)
