"""Vectors in fp16: what the rounding costs, and which vectors cannot bear it."""

from __future__ import annotations

from typing import Any

import numpy as np

LARGEST_COSINE_LOSS = 1e-3
"""A vector that loses more than this by becoming fp16 is not stored."""


def to_half(vectors: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [B, F_m] in fp16, and which of them survive that.

    Returns:
        fp16 [B, F_m]; bool [B], False where a vector is not finite in fp16 or lost more than `LARGEST_COSINE_LOSS`;
        float64 [B], what the usable ones lost, and 0 for the others.

    Example:
        >>> half, usable, losses = to_half([[1.0, 2.0], [np.nan, 0.0], [1e5, 0.0], [1e-9, 1e-9]])
        >>> usable.tolist(), bool(losses.max() < 1e-3)
        ([True, False, False, False], True)
    """
    exact = np.asarray(vectors, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        half = exact.astype(np.float16)
    usable = np.asarray(np.isfinite(half).all(axis=1))
    losses = np.zeros(len(exact))
    losses[usable] = fp16_cosine_losses(exact[usable], half[usable])
    usable &= losses <= LARGEST_COSINE_LOSS
    return half, usable, np.where(usable, losses, 0.0)


def unusable_reason(vector: Any) -> str:
    """Why `to_half` gives up one vector [F_m], for the quarantine.

    Example:
        >>> [unusable_reason(vector) for vector in ([np.nan, 0], [1e5, 0], [1e-9, 1e-9])]
        ['not finite: NaN or infinity', "overflow: a value beyond fp16's 65,504", 'underflow: fp16 loses 1.000 in cosine']
    """
    exact = np.asarray(vector, np.float64)
    if not np.isfinite(exact).all():
        return "not finite: NaN or infinity"
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16)
    if not np.isfinite(half).all():
        return "overflow: a value beyond fp16's 65,504"
    return f"underflow: fp16 loses {fp16_cosine_loss(exact[None], half[None]):.3f} in cosine"


def fp16_cosine_losses(exact: np.ndarray, half: np.ndarray) -> np.ndarray:
    """float64 [B]: `1 - cos(x, fp16(x))` of each row [B, F_m]; 0 where a row has no length, 1 where fp16 lost all of it."""
    a, b = exact.astype(np.float64), half.astype(np.float64)
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("bf,bf->b", a, b) / np.where(length > 0, length, 1.0)
    return np.where(a.any(axis=1), np.maximum(0.0, 1.0 - cosine), 0.0)


def fp16_cosine_loss(exact: np.ndarray, half: np.ndarray) -> float:
    """The largest of `fp16_cosine_losses` over rows [B, F_m]."""
    return float(fp16_cosine_losses(exact, half).max(initial=0.0))
