"""Clips of the demo world: six ways to play a little phrase, synthesised note by note with NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

STYLES = ("glass bells", "bass pulse", "slow flute", "plucked strings", "organ chords", "marimba and hats")
"""The sound styles: timbre, tempo and register together. Key, scale, melody and a little of the tempo are free."""
RATE = 16_000
"""Samples a second."""
SECONDS = 3
_SCALES = ((0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 3, 7, 8), (0, 4, 5, 7, 11))
_LOWEST = (74, 30, 67, 50, 43, 57)
"""Lowest MIDI note of each style; the key adds up to five semitones."""
_STEP = (0.5, 0.125, 0.75, 0.1875, 1.0, 0.25)
"""Seconds between notes."""


def play_clip(style: int, rng: np.random.Generator) -> np.ndarray:
    """One clip: a short motif, repeated with small changes, in the manner of the style.

    Args:
        style: index in `STYLES`.
        rng: chooses key, scale, motif, tempo within 6 % and loudness.

    Returns:
        int16 samples at `RATE`, [RATE * SECONDS].

    Example:
        >>> play_clip(2, np.random.default_rng(0)).shape
        (48000,)
    """
    if not 0 <= style < len(STYLES):
        raise ValueError(f"style: must be in 0..{len(STYLES) - 1}, received {style}; see STYLES")
    length = RATE * SECONDS
    track = np.zeros(length + 3 * RATE)
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    root = _LOWEST[style] + int(rng.integers(0, 6))
    step = _STEP[style] * rng.uniform(0.94, 1.06)
    bright = int(rng.integers(0, 3))
    notes = int(np.ceil(SECONDS / step))
    motif = np.clip(np.cumsum(rng.choice([-2, -1, 1, 1, 2], 8)) + 3, 0, 8)
    for index in range(notes):
        degree = int(motif[index % len(motif)])
        if index >= len(motif) and rng.random() < 0.25:
            degree = int(rng.integers(0, 8))
        at = int(index * step * RATE)
        loud = 1.0 if index % 4 == 0 else rng.uniform(0.7, 0.9)
        steps = (degree, degree + 2, degree + 4) if style == 4 else (degree,)
        if style == 1:
            steps = (degree // 3,)
        for place in steps:
            pitch = root + scale[place % len(scale)] + 12 * (place // len(scale))
            sound = _note(style, pitch, bright)
            track[at : at + len(sound)] += loud / len(steps) * sound
        if style == 5:
            beat = _kick() if index % 4 == 0 else _hat() * (0.5 if index % 2 else 0.8)
            track[at : at + len(beat)] += beat
    # An echo three notes later binds the phrase; it is quiet, so that the tempo stays audible.
    delay = min(int(3 * step * RATE), RATE)
    track[delay:] += 0.22 * track[:-delay]
    clip = track[:length]
    fade = np.minimum(1, np.arange(length)[::-1] / (0.08 * RATE))
    clip = clip * fade * rng.uniform(0.55, 0.85) / np.abs(clip).max()
    return np.round(clip * 32767).astype(np.int16)


@functools.lru_cache(maxsize=1024)
def _note(style: int, pitch: int, bright: int) -> np.ndarray:
    """One note; cached, since all clips of a style draw on a few dozen pitches."""
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    note = _INSTRUMENTS[style](frequency, 0.75 + 0.25 * bright)
    # Two milliseconds of attack and a released end keep every note free of clicks.
    ends = np.minimum(np.arange(len(note)) / 32, np.arange(len(note))[::-1] / 160)
    return note * np.minimum(1, ends)


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def _harmonics(frequency: float, t: np.ndarray, weights: list[float], decay: float = 0.0) -> np.ndarray:
    """Partials below 0.45 of the rate; partial h decays h times as fast as the first."""
    total = np.zeros_like(t)
    for order, weight in enumerate(weights, 1):
        if weight and order * frequency < 0.45 * RATE:
            total += weight * np.sin(2 * np.pi * order * frequency * t) * np.exp(-decay * order * t)
    return total


def _bell(frequency: float, bright: float) -> np.ndarray:
    """Frequency modulation at an inharmonic ratio, long decay."""
    t = _time(1.6)
    depth = 2.2 * bright * np.exp(-4 * t)
    return np.sin(2 * np.pi * frequency * t + depth * np.sin(2 * np.pi * 2.76 * frequency * t)) * np.exp(-2.6 * t)


def _bass(frequency: float, bright: float) -> np.ndarray:
    """A dull sawtooth, short."""
    t = _time(0.16)
    return _harmonics(frequency, t, [np.exp(-h / (7 * bright)) / h**0.5 for h in range(1, 20)]) * np.exp(-9 * t)


def _flute(frequency: float, bright: float) -> np.ndarray:
    """Nearly a sine with vibrato and breath, slow attack."""
    t = _time(0.95)
    phase = 2 * np.pi * frequency * t + 0.25 * np.sin(2 * np.pi * 5.2 * t) * np.minimum(1, 3 * t)
    tone = np.sin(phase) + 0.16 * bright * np.sin(2 * phase) + 0.05 * np.sin(3 * phase)
    breath = 0.03 * np.random.default_rng(int(frequency)).standard_normal(len(t))
    swell = np.minimum(1, t / 0.12) * np.minimum(1, (t[-1] - t) / 0.2)
    return (tone + breath) * swell


def _pluck(frequency: float, bright: float) -> np.ndarray:
    """A string: full harmonics that die from the top."""
    t = _time(0.7)
    return _harmonics(frequency, t, [bright ** (h - 1) / h for h in range(1, 15)], decay=3.2)


def _organ(frequency: float, bright: float) -> np.ndarray:
    """Drawbars, held."""
    t = _time(1.05)
    tremble = 1 + 0.12 * np.sin(2 * np.pi * 6.3 * t)
    tone = _harmonics(frequency, t, [1.0, 0.8, 0.5, 0.5 * bright, 0.0, 0.35 * bright, 0.0, 0.3 * bright])
    return 0.5 * tone * tremble * np.minimum(1, t / 0.03)


def _marimba(frequency: float, bright: float) -> np.ndarray:
    """A wooden bar: the first and the fourth partial, very short."""
    t = _time(0.35)
    knock = 0.5 * bright * np.sin(2 * np.pi * 3.93 * frequency * t) * np.exp(-35 * t)
    return 0.9 * (np.sin(2 * np.pi * frequency * t) * np.exp(-12 * t) + knock)


_INSTRUMENTS: tuple[Callable[[float, float], np.ndarray], ...] = (_bell, _bass, _flute, _pluck, _organ, _marimba)


@functools.lru_cache(maxsize=1)
def _hat() -> np.ndarray:
    """A burst of bright noise."""
    t = _time(0.06)
    noise = np.diff(np.random.default_rng(0).standard_normal(len(t) + 1))
    return 0.3 * noise * np.exp(-70 * t)


@functools.lru_cache(maxsize=1)
def _kick() -> np.ndarray:
    """A falling sine."""
    t = _time(0.2)
    return 0.9 * np.sin(2 * np.pi * (45 * t + 5 * (1 - np.exp(-30 * t)))) * np.exp(-14 * t)
