"""The space in which pictures, or sounds, are compared with one another: their vectors' strongest directions."""

from __future__ import annotations

import dataclasses

import numpy as np

BLOCK = 8_192
WIDTH = 128
"""Directions kept. Of vectors of 953 and 1,280 numbers these find a changed cover or clip as often as all do."""
SMALLEST = 1e-6
"""Share of the strongest direction's variance under which a direction is noise."""


@dataclasses.dataclass(frozen=True)
class ContentAxes:
    """Vectors become points on a sphere, and near ones mean content alike.

        e = normalise((x - mean) A),   A = V_E diag(variance)^(-1/4)

    V_E are the first principal directions. The half whitening takes from the strongest, which say what most content of a
    catalogue has in common, some of their weight.

    Attributes:
        mean: f32 [F]. axes: A, f32 [F, E].
    """

    mean: np.ndarray
    axes: np.ndarray

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """f32 [B, E] of unit length; zeros for the mean itself. Shapes: vectors [B, F]."""
        points = (np.asarray(vectors, np.float32) - self.mean) @ self.axes
        return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)


def fit_content_axes(table: np.ndarray, present: np.ndarray, width: int = WIDTH) -> ContentAxes | None:
    """The axes of a catalogue's vectors; None where fewer than two differ.

    Args:
        table: [N + 1, F], read a block at a time. present: bool [N + 1]. width: E at most.

    Example:
        >>> corners = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [-1, 0, 0], [0, -2, 0]], np.float32)
        >>> axes = fit_content_axes(corners, np.array([False, True, True, True, True]))
        >>> axes.place([[3.0, 0.0, 9.0]]).round(3).tolist() == axes.place([[1.0, 0.0, 0.0]]).round(3).tolist()
        True
    """
    rows = np.flatnonzero(present)
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    if len(rows) < 2:
        return None
    mean = sum(np.asarray(table[some], np.float64).sum(axis=0) for some in blocks) / len(rows)
    covariance = np.zeros((table.shape[1], table.shape[1]))
    for some in blocks:
        centred = np.asarray(table[some], np.float64) - mean
        covariance += centred.T @ centred / len(rows)
    variances, directions = np.linalg.eigh(covariance)
    kept = np.flatnonzero(variances > SMALLEST * max(variances[-1], 0.0))[::-1][:width]
    if not len(kept) or variances[-1] <= 0:
        return None
    axes = directions[:, kept] * variances[kept] ** -0.25
    return ContentAxes(mean.astype(np.float32), axes.astype(np.float32))
