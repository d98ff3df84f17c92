"""The singer: phrases of a score become a voice, by a glottal source and the resonances of a vocal tract.

Pitch, voicing, breath and formants are curves of C points, `CONTROL` samples apart. S samples, F frames of
`HOP` samples, B frequency bins, K formants.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from samuel.audio import SAMPLE_RATE
from samuel.synthetic.room import Signal, hertz
from samuel.synthetic.score import Phrase, Score

HOP = 512
WINDOW = 2 * HOP
FFT = 2 * WINDOW  # room for the filter's ringing
FREQUENCIES = np.fft.rfftfreq(FFT, 1.0 / SAMPLE_RATE)

TABLE = 2048
HIGHEST_HZ = 15_000.0  # no harmonic above: nothing folds back
FEWEST_HARMONICS = 16
LEVEL_STEP = 100  # samples between changes of the table
# Formants of an adult male in Hz (Peterson and Barney 1952 for the first three).
VOWELS = {
    "a": (730, 1090, 2440, 3300, 4200),
    "ae": (660, 1720, 2410, 3400, 4200),
    "e": (530, 1840, 2480, 3500, 4300),
    "i": (300, 2290, 3010, 3600, 4400),
    "o": (570, 840, 2410, 3200, 4100),
    "u": (320, 870, 2240, 3200, 4100),
    "er": (490, 1350, 1750, 3200, 4200),
}
NASAL = (270.0, 1150.0, 2250.0, 3200.0, 4100.0)
NEUTRAL = (500.0, 1500.0, 2500.0, 3500.0, 4500.0)
BANDWIDTHS = (80.0, 95.0, 130.0, 190.0, 260.0)


@cache
def glottal_tables() -> NDArray[np.float64]:
    """The glottal flow's derivative (Klatt and Klatt 1990) by levels of √2 harmonics, (8, TABLE + 1)."""
    open_quotient = 0.62
    x = np.arange(TABLE) / TABLE
    pulse = np.where(x < open_quotient, 2.0 * open_quotient * x - 3.0 * x**2, 0.0)
    spectrum = np.fft.rfft(pulse)
    spectrum[0] = 0.0
    counts = np.round(FEWEST_HARMONICS * 2.0 ** (np.arange(8) / 2.0))
    kept = np.arange(spectrum.size) <= counts[:, np.newaxis]
    tables = np.fft.irfft(np.where(kept, spectrum, 0.0), axis=1)
    tables /= np.sqrt(np.mean(tables[-1] ** 2))
    return np.concatenate([tables, tables[:, :1]], axis=1)


def glottal_source(f0_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """The voiced source, (S,) with root mean square about 1, for a fundamental (S,) in Hz."""
    tables = glottal_tables()
    place = (np.cumsum(f0_hz) / SAMPLE_RATE) % 1.0 * TABLE
    index = place.astype(np.intp)
    harmonics = HIGHEST_HZ / f0_hz[::LEVEL_STEP] / FEWEST_HARMONICS
    level = np.clip(np.floor(2.0 * np.log2(harmonics)), 0, len(tables) - 1).astype(np.intp)
    index += np.repeat(level * (TABLE + 1), LEVEL_STEP)[: index.size]
    left, right = tables.ravel()[index], tables.ravel()[index + 1]
    return left + (right - left) * (place % 1.0)


def filtered(source: NDArray[np.float64], response: NDArray[np.complex64]) -> Signal:
    """Filter (S,) by a response that changes from frame to frame, (F, B), F = ceil(S / HOP) + 1.

    Hann windows that overlap by half sum to 1, so a constant response is an ordinary convolution.
    """
    frames = len(response)
    padded = np.zeros((frames + 1) * HOP, np.float32)
    padded[HOP : HOP + source.size] = source
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    windowed = sliding_window_view(padded, WINDOW)[::HOP] * window
    spectra = np.asarray(fft.rfft(windowed, FFT, axis=1))
    parts = np.asarray(fft.irfft(spectra * response, FFT, axis=1))
    out = np.zeros((frames + FFT // HOP, HOP), np.float32)
    for j in range(FFT // HOP):
        out[j : j + frames] += parts[:, j * HOP : (j + 1) * HOP]
    return out.ravel()[HOP : HOP + source.size]


CONTROL = 100
CONTROL_HZ = SAMPLE_RATE / CONTROL
RELEASE_S = 0.1
BREATH_PAUSE_S = 0.05
CONSONANTS = {"plosive": 0.3, "fricative": 0.3, "nasal": 0.2, "none": 0.2}
HISS_HZ = {"s": (6500.0, 1500.0), "sh": (3300.0, 1000.0), "f": (5000.0, 4000.0)}  # centre, spread
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Singer:
    """A voice: its vocal tract, its vibrato and its noises."""

    scale: float  # factor on every formant; above 1 for a shorter tract than the male average
    tilt_hz: float  # corner of the glottal low-pass; lower is a softer voice
    vibrato_hz: float
    vibrato_semitones: float  # its greatest deviation to either side
    breathiness: float  # level of the aspiration relative to the voiced source
    hiss: dict[str, Signal]  # two seconds of noise for each fricative

    def response(self, formants: Curve) -> NDArray[np.complex64]:
        """Transfer function of a cascade of F² / (F² - f² + i f B) (Fant 1960): (F, K) Hz to (F, B)."""
        f = FREQUENCIES
        fixed = 1.0 / (1.0 + 1j * f / self.tilt_hz)
        for k in range(formants.shape[1], 16):
            centre = self.scale * (2 * k + 1) * 500.0
            fixed = fixed * centre**2 / (centre**2 - f**2 + 1j * f * (0.09 * centre))
        f = FREQUENCIES.astype(np.float32) / 1000  # kHz: the product of five squares stays within float32
        squares = np.square(formants / 1000).astype(np.float32)
        denominator = np.ones((len(formants), f.size), np.complex64)
        for k, bandwidth in enumerate(BANDWIDTHS):
            denominator *= squares[:, k, np.newaxis] - (f**2 - np.complex64(1j * bandwidth / 1000) * f)
        return fixed.astype(np.complex64) * squares.prod(axis=1, keepdims=True) / denominator


class Syllable(NamedTuple):
    """A note as sung; times in seconds from the start of the phrase."""

    onset_s: float  # start of the vowel
    end_s: float  # where the voice lets go, or the next syllable's consonant starts
    pitch: int
    formants: tuple[float, ...]  # of the vowel, in Hz
    consonant: str  # a name of `CONSONANTS`
    consonant_s: float  # its length, before the onset
    legato: bool  # the previous syllable runs into this one


def draw_singer(rng: np.random.Generator, centre: int) -> Singer:
    """A singer for a melody around the MIDI pitch `centre`; high voices have shorter tracts."""
    return Singer(
        scale=0.96 + 0.19 * (centre - 52) / 14.0 + rng.uniform(-0.03, 0.03),
        tilt_hz=rng.uniform(1800.0, 4000.0),
        vibrato_hz=rng.uniform(5.0, 6.3),
        vibrato_semitones=rng.uniform(0.25, 0.5),
        breathiness=rng.uniform(0.015, 0.05),
        hiss={name: _noise_band(rng, *band) for name, band in HISS_HZ.items()},
    )


def sing(rng: np.random.Generator, singer: Singer, score: Score, phrase: Phrase) -> tuple[float, Signal]:
    """Sing one phrase, from its breath to its release: when it starts, in seconds, and its samples (S,)."""
    breath_s = rng.uniform(0.18, 0.32)
    lead_in_s = breath_s + BREATH_PAUSE_S + 0.1  # 0.1: the longest first consonant
    start_s = score.seconds(phrase[0].start) - lead_in_s
    syllables = _draw_syllables(rng, singer, score, phrase, start_s)
    points = round((syllables[-1].end_s + RELEASE_S) * CONTROL_HZ)
    vowels = _sung_vowels(rng, singer, syllables, points, breath_s)
    # To root mean square 1 where it sounds, with half its dynamics in dB; a breath stays in proportion.
    power = np.square(vowels.reshape(-1, CONTROL)).mean(axis=1, dtype=np.float64)
    level = np.sqrt(gaussian_filter1d(power, 0.05 * CONTROL_HZ, mode="nearest"))
    gain = 1.0 / np.sqrt(np.maximum(level, 0.03 * float(level.max())) * level.max())
    sound = (vowels * _samples(gain)).astype(np.float32)
    sound += _consonant_noise(rng, singer, syllables, vowels.size)
    fade = np.minimum(1.0, np.arange(sound.size)[::-1] / (0.06 * SAMPLE_RATE))
    return start_s, (sound * fade).astype(np.float32)


def _draw_syllables(
    rng: np.random.Generator, singer: Singer, score: Score, phrase: Phrase, start_s: float
) -> list[Syllable]:
    vowels = [np.array(formants) * singer.scale for formants in VOWELS.values()]
    kinds = rng.choice(list(CONSONANTS), size=len(phrase), p=list(CONSONANTS.values()))
    lengths = np.where(kinds == "none", 0.0, rng.uniform(0.055, 0.1, len(phrase)))
    syllables: list[Syllable] = []
    for i, note in enumerate(phrase):
        end_s, onset_s = score.seconds(note.end) - start_s, score.seconds(note.start) - start_s
        if i + 1 < len(phrase) and phrase[i + 1].start - note.end < 0.1:
            end_s -= lengths[i + 1]
        first, *others = vowels[rng.integers(len(vowels))]
        # Singers open the jaw until the first formant is not below the fundamental.
        vowel = (max(first, 1.05 * hertz(note.pitch)), *others)
        legato = i > 0 and phrase[i - 1].end > note.start - 0.1
        consonant = (str(kinds[i]), float(lengths[i]))
        syllables.append(Syllable(onset_s, end_s, note.pitch, vowel, *consonant, legato))
    return syllables


def _sung_vowels(
    rng: np.random.Generator, singer: Singer, syllables: list[Syllable], points: int, breath_s: float
) -> Signal:
    """Everything that passes through the tract: voice, aspiration and the breath before."""
    samples, t = points * CONTROL, np.arange(points) / CONTROL_HZ
    f0_hz = _samples(hertz(_pitch_curve(rng, singer, syllables, points)))
    voicing = np.zeros(points)  # level of the source (C,), about 1 in a vowel
    formants = np.tile(np.array(NEUTRAL) * singer.scale, (points, 1))  # in Hz (C, K)
    for syllable in syllables:
        since, length_s = t - syllable.onset_s, syllable.end_s - syllable.onset_s
        held = (since >= 0) & (t < syllable.end_s)
        voicing[held] = rng.uniform(0.8, 1.1) * (1.0 + 0.15 * np.sin(np.pi * since[held] / length_s))
        if syllable.consonant == "nasal":
            voicing[(since >= -syllable.consonant_s) & (since < 0)] = 0.35
            formants[t >= syllable.onset_s - syllable.consonant_s] = np.array(NASAL) * singer.scale
        formants[t >= syllable.onset_s] = syllable.formants
    voicing = gaussian_filter1d(voicing, 0.012 * CONTROL_HZ)
    formants = gaussian_filter1d(formants, 0.018 * CONTROL_HZ, axis=0, mode="nearest")  # gliding
    place = t / breath_s
    bump = np.where((place > 0) & (place < 1), np.sin(np.pi * np.clip(place, 0.0, 1.0)) ** 2, 0.0)
    breath = 0.05 * bump + singer.breathiness * voicing
    source = _samples(voicing) * glottal_source(f0_hz)
    source += _samples(breath) * rng.standard_normal(samples)
    frames = np.minimum(np.arange(-(-samples // HOP) + 1) * HOP // CONTROL, points - 1)
    return filtered(source, singer.response(formants[frames]))


def _pitch_curve(rng: np.random.Generator, singer: Singer, syllables: list[Syllable], points: int) -> Curve:
    """MIDI pitch (C,): portamento between notes, scoops, drift, and a vibrato that comes late."""
    t = np.arange(points) / CONTROL_HZ
    pitch = np.full(points, float(syllables[0].pitch))
    depth = np.zeros(points)
    for syllable in syllables:
        since = t - syllable.onset_s
        pitch[since >= -0.02] = syllable.pitch
        held = (since >= 0) & (t < syllable.end_s + RELEASE_S)
        if not syllable.legato:
            pitch[held] -= rng.uniform(0.3, 1.2) * np.exp(-since[held] / 0.045)
        delay_s = rng.uniform(0.18, 0.3)
        depth[since >= 0] = 0.0
        depth[held] = np.clip((since[held] - delay_s) / 0.25, 0.0, 1.0)
    pitch = gaussian_filter1d(pitch, 0.022 * CONTROL_HZ, mode="nearest")  # gliding
    depth = gaussian_filter1d(depth, 0.02 * CONTROL_HZ, mode="nearest")
    drift = gaussian_filter1d(rng.standard_normal(points), 0.06 * CONTROL_HZ) * 0.5
    rate = singer.vibrato_hz * (1.0 + 0.03 * np.sin(2.0 * np.pi * 0.7 * t))
    vibrato = singer.vibrato_semitones * depth * np.sin(2.0 * np.pi * np.cumsum(rate) / CONTROL_HZ)
    return pitch + vibrato + drift


def _consonant_noise(
    rng: np.random.Generator, singer: Singer, syllables: list[Syllable], samples: int
) -> Signal:
    """Fricatives and the bursts of plosives, (S,)."""
    noise = np.zeros(samples, np.float32)
    for syllable in (one for one in syllables if one.consonant in ("plosive", "fricative")):
        plosive = syllable.consonant == "plosive"
        hiss = singer.hiss[str(rng.choice(list(HISS_HZ)))]
        # A plosive is silent until its burst.
        size = round((0.03 if plosive else syllable.consonant_s) * SAMPLE_RATE)
        place = int(rng.integers(hiss.size - size))
        x = np.arange(size) / size
        shape = np.exp(-5.0 * x) * np.minimum(1.0, 20.0 * x) if plosive else np.sin(np.pi * x) ** 0.7
        burst = rng.uniform(0.15, 0.3) * shape * hiss[place : place + size]
        start = round(syllable.onset_s * SAMPLE_RATE) - size
        noise[start : start + size] += burst.astype(np.float32)
    return noise


def _noise_band(rng: np.random.Generator, centre_hz: float, spread_hz: float) -> Signal:
    size = 2 * SAMPLE_RATE
    frequencies = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    noise = np.fft.irfft(spectrum * np.exp(-0.5 * ((frequencies - centre_hz) / spread_hz) ** 2), size)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def _samples(curve: Curve) -> Curve:
    """A curve (C,) at the sample rate, (C * CONTROL,), in straight lines."""
    steps = np.diff(curve, append=curve[-1])
    return (curve[:, np.newaxis] + steps[:, np.newaxis] * (np.arange(CONTROL) / CONTROL)).ravel()
