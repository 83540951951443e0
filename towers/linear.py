"""Linear retrieval: a user is the sum of what they chose, and an item-to-item matrix of low rank says what goes with it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILE = "linear.npz"
USERS_AT_A_TIME = 16_384
"""Users whose queries are in memory at once, at 16 bytes a number: 270 MB of parts that are 1,024 numbers wide together."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinearTower:
    """Two vectors an item: what it says about a user who chose it, and where it stands as a candidate.

    Formula: `score(u, j) = (sum_{i in history of u} h_i) . a_j`, so that `H A'` is an item-to-item matrix of rank D. It
    needs no user table, follows a new event at once, and is served by the index like any item tower.

    Attributes:
        history: H, float32 [N + 1, D]. items: A, float32 [N + 1, D]. Row 0 of both is zero.

    Example:
        >>> tower = LinearTower(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [3.0], [0.0]]))
        >>> scipy = __import__("scipy.sparse")
        >>> taken = scipy.sparse.csr_array(np.array([[0, 1, 1], [0, 0, 0]]))
        >>> (tower.queries(taken) @ tower.items.T).tolist()
        [[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]
    """

    history: np.ndarray
    items: np.ndarray

    def __post_init__(self) -> None:
        if self.history.shape != self.items.shape or self.items.ndim != 2:
            raise ValueError(
                f"history, items: must be two tables [N + 1, D] of one shape, received {self.history.shape} and "
                f"{self.items.shape}"
            )
        for name, table in (("history", self.history), ("items", self.items)):
            if not np.isfinite(table).all() or table[0].any():
                raise ValueError(f"{name}: must be finite with row 0 all zero; row 0 stands for no item")

    @property
    def width(self) -> int:
        return self.items.shape[1]

    def queries(self, taken: Any) -> np.ndarray:
        """Sums of histories. taken: sparse [B, N + 1] of ones -> [B, D] float32."""
        return np.asarray(taken @ self.history, np.float32)

    def save(self, folder: str | Path) -> None:
        """Write `linear.npz` into an existing folder."""
        np.savez(Path(folder) / FILE, history=self.history, items=self.items)

    @classmethod
    def load(cls, folder: str | Path) -> LinearTower:
        """What `save` wrote. Errors: FileNotFoundError."""
        with np.load(Path(folder) / FILE) as arrays:
            return cls(arrays["history"], arrays["items"])


def score_scale(tower: LinearTower, taken: Any) -> float:
    """Mean over users of the standard deviation of their scores over the items; what makes towers comparable.

    Formula: `sd_j(q . a_j) = sqrt(q' Cov(a) q)`. Shapes: taken sparse [U, N + 1] -> scalar, at least 1e-12.
    """
    covariance = np.cov(tower.items[1:].T, bias=True).reshape(tower.width, tower.width)
    queries = tower.queries(taken).astype(np.float64)
    spread = np.sqrt(np.maximum(np.einsum("ud,de,ue->u", queries, covariance, queries, optimize=True), 0.0))
    return max(float(spread.mean()), 1e-12)


def join(towers: Sequence[LinearTower], weights: Sequence[float]) -> LinearTower:
    """One tower whose scores are the weighted sum of theirs: `[w_1 H_1, ..., w_P H_P]` and `[A_1, ..., A_P]`."""
    if len(towers) != len(weights) or not towers:
        raise ValueError(f"weights: one a tower, at least one, received {len(weights)} for {len(towers)} towers")
    history = np.concatenate([weight * tower.history for tower, weight in zip(towers, weights, strict=True)], axis=1)
    return LinearTower(history.astype(np.float32), np.concatenate([tower.items for tower in towers], axis=1))


def query_products(tower: LinearTower, taken: Any) -> np.ndarray:
    """`sum_u q_u' q_u / n_u` over the users of a block, n_u items each. taken: sparse [B, N + 1] -> float64 [D, D]."""
    queries = tower.queries(taken).astype(np.float64)
    counts = np.maximum(np.asarray(taken.sum(axis=1)).ravel(), 1.0)
    return (queries / counts[:, None]).T @ queries


def compress(tower: LinearTower, taken: Any, width: int) -> LinearTower:
    """The tower of the given width whose scores of these users are nearest to the tower's own.

    Formula: with `Q = X H` and `C = Q' diag(1 / n) Q = R R'`, the best approximation of `Q A'` in the weighted sum of
    squares keeps the leading singular vectors of `R' A' = U S V'`: `H R'^-1 U` and `V S` (Eckart and Young, 1936, in
    the metric of the users' queries). Users count by 1 / n, or long histories would decide alone.

    Args:
        taken: sparse [U, N + 1], the users to be near for. width: kept; a tower no wider is returned as it is.
    """
    if tower.width <= width:
        return tower
    blocks = (taken[start : start + USERS_AT_A_TIME] for start in range(0, taken.shape[0], USERS_AT_A_TIME))
    values, vectors = np.linalg.eigh(functools.reduce(np.add, (query_products(tower, block) for block in blocks)))
    # Directions that no query has are left out rather than blown up.
    kept = values > 1e-10 * values[-1]
    root = np.sqrt(values[kept])
    inward, outward = vectors[:, kept] * root, vectors[:, kept] / root
    left, strengths, right = np.linalg.svd(inward.T @ tower.items.T.astype(np.float64), full_matrices=False)
    history = tower.history.astype(np.float64) @ (outward @ left[:, :width])
    items = right[:width].T * strengths[:width]
    history[0] = items[0] = 0.0  # which rounding had left a little above
    return LinearTower(history.astype(np.float32), items.astype(np.float32))


def whiten(tower: LinearTower) -> LinearTower:
    """The same scores, in coordinates where a query of length 1 has scores of standard deviation 1 over the items.

    Formula: with `Cov(a) = E E'`, `h -> h E` and `a -> a E'^-1`.
    """
    covariance = np.cov(tower.items[1:].T.astype(np.float64), bias=True).reshape(tower.width, tower.width)
    values, vectors = np.linalg.eigh(covariance)
    root = np.sqrt(np.maximum(values, 1e-8 * max(values[-1], 1e-30)))
    return LinearTower(
        (tower.history @ (vectors * root)).astype(np.float32), (tower.items @ (vectors / root)).astype(np.float32)
    )
