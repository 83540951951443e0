"""Instruments of the generated worlds, synthesised with NumPy: one wave a program, pitch and make."""

from __future__ import annotations

import functools

import numpy as np

from data.world_score import CLOSED_HAT, DRONE, KICK, PROGRAMS, SHAKER, SNARE

RATE = 16_000
"""Samples a second."""
MAKES = 3
"""Instruments of a kind: no two guitars sound alike."""
LONGEST = 1.8
"""Seconds that a held note lasts."""
_TABLE = 2048


@functools.lru_cache(maxsize=4096)
def instrument_tone(program: int, pitch: int, make: int) -> np.ndarray:
    """A note as long as the instrument can hold it; the player cuts it.

    Args:
        program: one of `PROGRAMS`, or `DRONE`.
        pitch: MIDI key.
        make: 0 to `MAKES` - 1: brightness, vibrato and attack of this one.

    Returns:
        float32 [samples at `RATE`] within about -1..1; read-only, since it is cached.
    """
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    rng = np.random.default_rng([program, pitch, make])
    voices = dict(zip((*PROGRAMS, DRONE), (_guitar, _flute, _choir, _strings, _synth, _distorted, _drone), strict=True))
    tone = voices[program](frequency, make, rng)
    tone = (tone / np.abs(tone).max()).astype(np.float32)
    tone.setflags(write=False)
    return tone


@functools.lru_cache(maxsize=64)
def drum_hit(key: int, make: int) -> np.ndarray:
    """A stroke on a percussion key, float32 [samples]; read-only."""
    rng = np.random.default_rng([key, make])
    if key == KICK:
        t = _time(0.22)
        hit = np.sin(2 * np.pi * ((42 + 6 * make) * t + 5 * (1 - np.exp(-30 * t)))) * np.exp(-(11 + 3 * make) * t)
    elif key == SNARE:
        t = _time(0.18)
        noise = rng.standard_normal(len(t))
        hit = 0.6 * noise * np.exp(-22 * t) + 0.5 * np.sin(2 * np.pi * (170 + 20 * make) * t) * np.exp(-25 * t)
    else:
        lasting = {CLOSED_HAT: 70 - 12 * make, SHAKER: 40 + 10 * make}[key]
        t = _time(0.09)
        noise = np.diff(rng.standard_normal(len(t) + 1))
        hit = 0.4 * noise * np.exp(-lasting * t) * np.minimum(1, t / (0.001 if key == CLOSED_HAT else 0.015))
    hit = hit.astype(np.float32)
    hit.setflags(write=False)
    return hit


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def _cycle(frequency: float, weights: np.ndarray) -> np.ndarray:
    """One period with harmonics below 0.45 of the rate, as a table of `_TABLE` samples."""
    spectrum = np.zeros(_TABLE // 2 + 1, complex)
    orders = np.arange(1, 1 + min(len(weights), int(0.45 * RATE / frequency)))
    # The phases spread the harmonics over the period; with all of them at 0, sums would spike.
    spectrum[orders] = weights[: len(orders)] * np.exp(0.7j * orders**2)
    return np.fft.irfft(spectrum) * _TABLE


def _held(phase: np.ndarray, frequency: float, weights: np.ndarray) -> np.ndarray:
    """A tone of constant colour: the period read at a phase in radians."""
    return _cycle(frequency, weights)[(phase * (_TABLE / (2 * np.pi))).astype(np.int32) & (_TABLE - 1)]


def _dying(t: np.ndarray, frequency: float, weights: np.ndarray, first: float, more: float) -> np.ndarray:
    """A tone whose partial h dies at the rate `first + h more` a second, by Horner's rule in one complex oscillator."""
    base = np.exp((2j * np.pi * frequency - more) * t).astype(np.complex64)
    count = min(len(weights), int(0.45 * RATE / frequency))
    total = np.zeros(len(t), np.complex64)
    for order in range(count, 0, -1):
        total = (total + np.complex64(weights[order - 1] * np.exp(0.7j * order**2))) * base
    return total.imag * np.exp(-first * t)


def _vibrato(t: np.ndarray, frequency: float, rate: float, depth: float) -> np.ndarray:
    """Phase of a tone whose pitch swings by `depth` (a share of the frequency), setting in after a moment."""
    swing = depth * frequency / rate * np.minimum(1, t / 0.25)
    return 2 * np.pi * frequency * t + swing * np.sin(2 * np.pi * rate * t)


def _guitar(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """A plucked string: the place of the pluck shapes the partials, the high ones die first."""
    t = _time(1.6)
    orders = np.arange(1, 26)
    weights = np.abs(np.sin(np.pi * orders * (0.13, 0.21, 0.29)[make])) / orders ** (0.9 + 0.2 * make)
    tone = _dying(t, frequency, weights, 1.6, 0.5)
    return tone + 0.15 * rng.standard_normal(len(t)) * np.exp(-180 * t)


def _flute(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """Nearly a sine with vibrato, breath and a soft start."""
    t = _time(LONGEST)
    phase = _vibrato(t, frequency, 4.6 + 0.4 * make, 0.008 + 0.003 * make)
    tone = _held(phase, frequency, np.array([1, 0.25 + 0.1 * make, 0.1, 0.03]))
    breath = np.convolve(rng.standard_normal(len(t)), np.ones(4) / 4, "same")
    return (tone * (1 + 0.15 * np.sin(2 * np.pi * 5 * t)) + 0.02 * breath) * np.minimum(1, t / 0.09)


def _choir(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """Four voices on one vowel: harmonics under its formants, each voice with a vibrato of its own."""
    t = _time(LONGEST)
    formants = ((730, 1090, 2440), (570, 840, 2410), (300, 870, 2240))[make]
    orders = np.arange(1, 31) * frequency
    weights = np.full(30, 0.02)
    for centre, gain in zip(formants, (1, 0.6, 0.3), strict=True):
        weights += gain * np.exp(-(((orders - centre) / 110) ** 2))
    weights /= np.sqrt(np.arange(1, 31))
    tone = np.zeros(len(t))
    for _ in range(3):
        detuned = frequency * 2 ** (rng.normal(0, 0.09) / 12)
        tone += _held(_vibrato(t, detuned, rng.uniform(4.5, 6.2), 0.009), detuned, weights)
    return tone * np.minimum(1, t / 0.12)


def _strings(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """Bowed: sawtooth partials under a body's resonances, a few players, slow vibrato."""
    t = _time(LONGEST)
    orders = np.arange(1, 26)
    body = 0.5 + sum(np.exp(-(((orders * frequency - peak) / 180) ** 2)) for peak in (290 + 40 * make, 460, 1100, 2600))
    tone = np.zeros(len(t))
    for _ in range(1 + make):
        detuned = frequency * 2 ** (rng.normal(0, 0.06) / 12)
        tone += _held(_vibrato(t, detuned, rng.uniform(5, 6.5), 0.006), detuned, body / orders)
    bow = 0.008 * rng.standard_normal(len(t))
    return (tone + bow * np.abs(tone).max()) * np.minimum(1, t / (0.05 + 0.05 * make))


def _synth(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """A sawtooth through a filter that closes: a synthesizer's lead."""
    t = _time(0.5)
    orders = np.arange(1, 21)
    low = frequency / (1, 1, 2)[make]
    return _dying(t, low, 1 / orders, 3, 0.8 + 0.5 * make)


def _distorted(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """A power chord through an overdriven amplifier."""
    t = _time(LONGEST)
    low = frequency / 2
    weights = 1 / np.arange(1, 13)
    string = sum(_held(2 * np.pi * low * ratio * t, low * ratio, weights) for ratio in (1, 1.4983, 2.003))
    drive = np.tanh((2 + 2 * make) * string * np.exp(-0.7 * t))
    # A loudspeaker passes little above five kilohertz.
    return np.convolve(drive, np.hanning(7) / np.hanning(7).sum(), "same")


def _drone(frequency: float, make: int, rng: np.random.Generator) -> np.ndarray:
    """A dull low tone."""
    t = _time(LONGEST)
    return _held(2 * np.pi * frequency * t, frequency, np.array([1, 0.4, 0.15])) * np.minimum(1, t / 0.05)
