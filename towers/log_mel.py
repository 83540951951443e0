"""Mel spectrograms for pretrained audio encoders, in `keras.ops`: the same lines run on arrays and inside a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 16_000


def power_frames(samples: Any, frame: int, hop: int) -> Any:
    """Power spectra of overlapping frames around every `hop`-th sample.

    Formula: `P[t, f] = |sum_n w_n x[t hop + n - frame / 2] exp(-2 pi i f n / frame)|^2`, `w` the periodic Hann window
    and `x` mirrored at both ends.

    Shapes: float32 [B, S] -> [B, 1 + S // hop, 1 + frame // 2].
    """
    from keras import ops

    length, half = samples.shape[1], frame // 2
    padded = ops.pad(samples, [[0, 0], [half, half]], mode="reflect")
    starts = np.arange(0, length + 1, hop)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).astype(np.float32)
    frames = ops.take(padded, starts[:, None] + np.arange(frame), axis=1) * window
    real, imaginary = ops.rfft(frames)
    return ops.square(real) + ops.square(imaginary)


def mel_matrix(bands: int, frame: int) -> np.ndarray:
    """Triangular mel filters of unit area (Slaney's), 0 to 8 kHz.

    Formula: mel is linear below 1 kHz (200 / 3 Hz each) and logarithmic above (27 steps for a factor of 6.4); band k
    rises from edge k to edge k + 1 and falls to edge k + 2 of `bands + 2` edges equally far apart in mel, its height
    `2 / (edge[k + 2] - edge[k])` in 1 / Hz. Reference: Slaney 1998 (Auditory Toolbox).

    Shapes: -> float32 [1 + frame // 2, bands].

    Example:
        >>> matrix = mel_matrix(96, 512)
        >>> matrix.shape, bool((matrix >= 0).all())
        ((257, 96), True)
    """
    step = np.log(6.4) / 27
    top = 15 + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * step))
    frequency = np.linspace(0, RATE / 2, 1 + frame // 2)
    rise = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    height = 2 / (edges[2:] - edges[:-2])
    return (np.maximum(0, np.minimum(rise, fall)) * height[:, None]).T.astype(np.float32)


def real_length(samples: Any) -> Any:
    """Samples up to the last one that is not zero, at least 1: [B, S] -> int32 [B]; what follows is padding."""
    from keras import ops

    positions = ops.arange(1, samples.shape[1] + 1, dtype="int32")
    return ops.maximum(ops.max(ops.where(ops.not_equal(samples, 0.0), positions, 0), axis=1), 1)


def repeated(samples: Any) -> Any:
    """Clips whose padding is filled by the clip itself, over and over: [B, S] -> [B, S].

    Example:
        >>> import keras
        >>> keras.ops.convert_to_numpy(repeated(np.array([[1., 2., 3., 0., 0.]]))).tolist()
        [[1.0, 2.0, 3.0, 1.0, 2.0]]
    """
    from keras import ops

    positions = ops.arange(samples.shape[1], dtype="int32")[None, :] % real_length(samples)[:, None]
    return ops.take_along_axis(samples, positions, axis=1)
