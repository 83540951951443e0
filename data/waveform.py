"""Sound as numbers: mono at 16 kHz, cut or padded to a fixed length."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from data.media import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, SAMPLE_RATE, MediaError
from data.resample import resample

LARGEST_DIVISOR = 2_000
"""Of the resampling ratio: every rate in use is exact, an odd one is off by less than one part in a million."""
LOUDEST = 8.0
"""Float files may overshoot 1; powers stay finite."""


def check_sound(rate: int, channels: int, seconds: float, max_seconds: float) -> None:
    """Refuse what a header declares, before anything is decoded.

    Raises:
        MediaError: a rate, a number of channels or a length out of bounds, with what to do.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise MediaError(
            f"broken audio: sample rate must be {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz, received {rate}; export it again"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(f"too large: at most {MAX_CHANNELS} channels, received {channels}; mix it down to stereo")
    if seconds > max_seconds:
        raise MediaError(
            f"too large: at most {max_seconds:,.0f} seconds, the header declares {seconds:,.0f}; cut an excerpt"
        )


def middle(length: int, rate: int, samples: int) -> tuple[int, int]:
    """Where the middle of a clip lies: first frame and number of frames at `rate` that give `samples` at 16 kHz.

    Example:
        >>> middle(480_000, 48_000, 16_000)
        (216000, 48000)
    """
    needed = math.ceil(samples * rate / SAMPLE_RATE)
    return max(0, (length - needed) // 2), min(needed, length)


def fit_clip(wave: np.ndarray, rate: int, samples: int) -> np.ndarray:
    """A mono wave at any rate to `samples` at 16 kHz: polyphase resampling (Kaiser window), zeros after a short one.

    Args:
        wave: float32 [length] at `rate`, already the excerpt that is wanted.

    Returns:
        float32 [samples], clipped to -8..8.

    Raises:
        MediaError: no samples, or samples that are NaN or infinite.
    """
    if not wave.size:
        raise MediaError("empty: the clip has no samples; export it again")
    if not np.isfinite(wave).all():
        bad = int((~np.isfinite(wave)).sum())
        raise MediaError(f"broken audio: {bad} samples are NaN or infinite; export it as 16-bit PCM")
    wave = np.clip(wave, -LOUDEST, LOUDEST)
    if rate != SAMPLE_RATE:
        ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(LARGEST_DIVISOR)
        wave = resample(wave, ratio.numerator, ratio.denominator)
    clip = np.zeros(samples, np.float32)
    length = min(samples, len(wave))
    clip[:length] = np.clip(wave[:length], -LOUDEST, LOUDEST)
    return clip
