"""Clips of the generated worlds: a score played by its instruments, in some room, through some loudspeaker, on some tape."""

from __future__ import annotations

import io
import wave

import numpy as np

from data.world_instruments import MAKES, RATE, drum_hit, instrument_tone
from data.world_score import DRUMS, SECONDS, TICKS, Note, compose

LENGTH = RATE * SECONDS
"""Samples of a clip."""
_TAIL = int(0.6 * RATE)
"""Samples that a room rings."""
_SPAN = LENGTH + _TAIL
"""Points of the Fourier transform: a clip and what rings after it."""


def play_clip(style: int, rng: np.random.Generator) -> np.ndarray:
    """A piece of the style, composed and played.

    Example:
        >>> play_clip(2, np.random.default_rng(0)).shape
        (48000,)
    """
    return play_score(compose(style, rng), rng)


def play_score(notes: list[Note], rng: np.random.Generator) -> np.ndarray:
    """Plays notes as a recording that nobody levelled.

    The make of the instruments, room, equalisation, hiss and loudness are free: what is left is who plays and how.

    Args:
        notes: starts within `SECONDS`.
        rng: chooses the recording.

    Returns:
        int16 samples at `RATE`, [LENGTH].
    """
    make = int(rng.integers(MAKES))
    track = np.zeros(_SPAN, np.float32)
    for note in notes:
        start, held = note.start * RATE // TICKS, note.length * RATE // TICKS
        if note.program == DRUMS:
            sound = drum_hit(note.pitch, make)
        else:
            sound = _cut(instrument_tone(note.program, note.pitch, make), held)
        sound = sound[: max(0, LENGTH - start)]
        track[start : start + len(sound)] += np.float32((note.velocity / 127) ** 1.5) * sound
    clip = _record(track, rng)
    fade = np.minimum(1, np.arange(LENGTH, dtype=np.float32)[::-1] / np.float32(0.05 * RATE))
    clip = clip * fade * np.float32(10 ** rng.uniform(-1.3, -0.05) / np.abs(clip).max())
    return np.round(clip * 32767).astype(np.int16)


def wav_bytes(samples: np.ndarray) -> bytes:
    """int16 samples at `RATE` as a WAV file, mono."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return content.getvalue()


def _cut(tone: np.ndarray, held: int) -> np.ndarray:
    """The first `held` samples and a release of 40 ms; two milliseconds of attack keep every note free of clicks."""
    release = RATE // 25
    tone = tone[: held + release].copy()
    tone[-release:] *= np.linspace(1, 0, release)
    tone[:32] *= np.linspace(0, 1, 32)
    return tone


def _record(track: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Room, equalisation of some decibels in smooth bands, and hiss of some colour 26 to 60 dB below the music."""
    spectrum = np.fft.rfft(track)
    octave = np.log2(np.maximum(np.arange(len(spectrum)) * (RATE / _SPAN), 40) / 40)
    gains = np.cumsum(rng.normal(0, 1.5, 9)) + rng.normal(0, 1.5, 9)
    curve = (10 ** (np.interp(octave, np.arange(9), gains - gains.mean()) / 20)).astype(np.float32)
    decay = rng.uniform(0.05, 0.5) * RATE / 4
    tail = rng.standard_normal(_TAIL, dtype=np.float32) * np.exp(-np.arange(_TAIL, dtype=np.float32) / np.float32(decay))
    wet = np.float32(rng.uniform(0, 0.5) ** 2 / np.sqrt((tail**2).sum()))
    spectrum *= curve * (1 + wet * np.fft.rfft(tail, _SPAN))
    noise = rng.standard_normal(LENGTH, dtype=np.float32)
    if rng.random() < 0.5:
        noise[1:] += 0.9 * noise[:-1]
    clip = np.fft.irfft(spectrum, _SPAN)[:LENGTH]
    level = np.sqrt((clip**2).mean()) * 10 ** rng.uniform(-3.0, -1.3) / noise.std()
    return clip + np.float32(level) * noise
