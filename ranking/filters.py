"""Which candidates may be shown at all: not seen, not blocked, in stock, and on the list where there is one."""

from __future__ import annotations

from typing import Any

from keras import ops as keras_ops


def listed(rows: Any, others: Any, *, ops: Any = keras_ops) -> Any:
    """Whether each row is among the others of its line; row 0 never is.

    Shapes: rows int [B, K], others int [B, E], E >= 0, filled with 0 -> bool [B, K].

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> listed(np.array([[3, 5, 0]]), np.array([[5, 0]]), ops=numpy_ops).tolist()
        [[False, True, False]]
    """
    same = rows[:, :, None] == others[:, None, :]
    return ops.logical_and(ops.any(same, axis=2), rows > 0)


def kept_candidates(
    rows: Any,
    *,
    seen: Any = None,
    blocked: Any = None,
    allowed: Any = None,
    available: Any = None,
    ops: Any = keras_ops,
) -> Any:
    """The mask of candidates that every filter lets through.

    Args:
        rows: int [B, K], 0 = padding.
        seen: int [B, S] rows that the user knows. blocked: int [B, E] rows that this request must not get.
        allowed: int [B, A] the only rows that it may get; a line of zeros allows all.
        available: bool [N + 1], False where an item is out of stock.
        ops: `keras.ops`, or `ranking.array_ops.numpy_ops`.

    Returns: bool [B, K].

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> rows, stock = np.array([[1, 2, 3, 0]]), np.array([True, True, False, True])
        >>> kept_candidates(rows, seen=np.array([[3]]), available=stock, ops=numpy_ops).tolist()
        [[True, False, False, False]]
    """
    kept = rows > 0
    for refused in (seen, blocked):
        if refused is not None:
            kept = ops.logical_and(kept, ops.logical_not(listed(rows, refused, ops=ops)))
    if allowed is not None:
        anything = ops.logical_not(ops.any(allowed > 0, axis=1))[:, None]
        kept = ops.logical_and(kept, ops.logical_or(anything, listed(rows, allowed, ops=ops)))
    if available is not None:
        kept = ops.logical_and(kept, ops.take(available, rows, axis=0))
    return kept
