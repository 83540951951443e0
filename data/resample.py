"""Polyphase resampling by a rational factor as a few small matrix products, in NumPy alone.

The filter and its alignment are those of `scipy.signal.resample_poly`, and so is the result to within rounding (a test
holds them together). What differs is the price: importing `scipy.signal` takes longer than resampling a hundred clips,
and every decoding process would pay it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

ZEROS = 10
"""Zero crossings of the filter on either side of its middle."""
BETA = 5.0
"""Of the Kaiser window."""
GROUP = 32
"""Outputs of one row of a matrix product: enough for BLAS, few enough that most of the matrix is filter and not zeros."""


def resample(wave: np.ndarray, up: int, down: int) -> np.ndarray:
    """A wave at `up / down` times its rate, low-passed at the lower of both Nyquist frequencies.

    Formula: `y[n] = sum_m x[m] h[n down - m up]`, `h[i] = up w[i] sinc(i / r) / sum_j w[j] sinc(j / r)` for
    `|i| <= 10 r`, `r = max(up, down)`, w the Kaiser window of beta 5; x is zero outside. Reference: Crochiere and
    Rabiner 1983 (Multirate Digital Signal Processing), chapter 2.

    `n down - m up` has a period of `up` outputs and `down` inputs, so the outputs `k P .. k P + 31` (P that period) of
    all k are one matrix of overlapping excerpts times one matrix of filter taps.

    Args:
        wave: float32 [S].
        up, down: positive; a common divisor changes nothing.

    Returns:
        float32 [ceil(S up / down)].

    Raises:
        ValueError: a factor below 1.

    Example:
        >>> resample(np.ones(300, np.float32), 1, 3).shape, round(float(resample(np.ones(300, np.float32), 1, 3)[50]), 3)
        ((100,), 1.0)
    """
    if up < 1 or down < 1:
        raise ValueError(f"up, down: must be at least 1, received {up} and {down}; give the two rates")
    up, down = up // math.gcd(up, down), down // math.gcd(up, down)
    length = -(-len(wave) * up // down)
    if up == down or not length:
        return np.array(wave[:length], np.float32)
    period, advance, groups = _matrices(up, down)
    blocks = -(-length // period)
    before = max(0, -min(start for start, _ in groups))
    after = max(start + len(taps) for start, taps in groups)
    padded = np.zeros(before + blocks * advance + after, np.float32)
    padded[before : before + len(wave)] = wave
    out = np.empty((blocks, period), np.float32)
    first = 0
    for start, taps in groups:
        excerpts = np.lib.stride_tricks.sliding_window_view(padded[before + start :], len(taps))[::advance][:blocks]
        out[:, first : first + taps.shape[1]] = np.ascontiguousarray(excerpts) @ taps
        first += taps.shape[1]
    return out.reshape(-1)[:length]


@lru_cache(maxsize=16)
def _matrices(up: int, down: int) -> tuple[int, int, tuple[tuple[int, np.ndarray], ...]]:
    """Outputs a period, inputs a period, and of each group of outputs: its first input, and taps [inputs, outputs]."""
    rate, repeats = max(up, down), -(-GROUP // up)
    period, advance, half = repeats * up, repeats * down, ZEROS * rate
    offsets = np.arange(-half, half + 1)
    filter_ = np.sinc(offsets / rate) * np.kaiser(len(offsets), BETA)
    filter_ *= up / filter_.sum()
    groups = []
    for first in range(0, period, GROUP):
        outputs = np.arange(first, min(first + GROUP, period))
        inputs = np.arange(-((half - first * down) // up), (int(outputs[-1]) * down + half) // up + 1)
        index = outputs[None] * down - inputs[:, None] * up + half
        inside = (index >= 0) & (index < len(filter_))
        taps = np.where(inside, filter_[np.clip(index, 0, len(filter_) - 1)], 0.0)
        groups.append((int(inputs[0]), np.ascontiguousarray(taps, np.float32)))
    return period, advance, tuple(groups)
