"""Clustered vectors and queries of any number, and arrays kept for the next time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def make_world(items: int, width: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Item table f32 [N + 1, D] with row 0 zeros, and queries f32 [Q, D], all of length 1."""
    rng = np.random.default_rng(seed)

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    def noise(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, width), dtype=np.float32))

    centres = noise(max(1, items // 250))
    shares = rng.permutation(np.arange(1, len(centres) + 1) ** -0.5)
    nearest = rng.choice(len(centres), items, p=shares / shares.sum())
    table = np.zeros((items + 1, width), np.float32)
    for start in range(0, items, 65_536):
        some = nearest[start : start + 65_536]
        table[1 + start : 1 + start + len(some)] = unit(centres[some] + 0.7 * noise(len(some)))
    return table, unit(table[rng.integers(1, items + 1, queries)] + 0.5 * noise(queries))


def kept(file: Path | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from a file, or made and written there."""
    if file is not None and file.is_file():
        return np.load(file)
    array = make()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    return array
