"""Tables kept smaller than they are used: half precision, or eight bits and a scale a row, read a row at a time."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from keras import ops as keras_ops

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

NARROW = 8
"""Rows of fewer numbers than this stay in half precision: flags and counts, whose scale would cost what eight bits save."""

CODES = 127
SCALE_BYTES = 2
HALF_LARGEST = float(np.finfo(np.float16).max)


def store_rows(table: np.ndarray, precision: Precision) -> np.ndarray:
    """A float table in its stored form, an array whose rows can be gathered as they are.

        int8:  x ≈ s c,  c = round(x / s) in -127..127,  s = 2^e (1 + m / 256) the least of its kind that is >= max|x| / 127

    with e and m in the last two bytes of the row. An error is then at most s / 2, that is max|x| / 254 of its row and a
    256th of that; in half precision it is 2^-11 of each value.

    Args:
        table: f32 [..., W].
        precision: "float32" (as it is), "float16" or "int8".

    Returns:
        f32 [..., W], f16 [..., W], or int8 [..., W + 2].

    Raises:
        ValueError: an unknown precision, or values that are not finite or beyond half precision.

    Example:
        >>> stored = store_rows(np.array([[1.0, -2.0, 0.5, 0.25] * 2]), "int8")
        >>> stored.dtype, stored.shape, [round(float(x), 1) for x in restore_rows(stored)[0, :4]]
        (dtype('int8'), (1, 10), [1.0, -2.0, 0.5, 0.3])
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: must be one of {PRECISIONS}, received {precision!r}")
    table = np.asarray(table, np.float32)
    if precision == "float32":
        return table
    largest = float(np.abs(table).max(initial=0.0))
    if not largest <= HALF_LARGEST:
        raise ValueError(f"table: values must be finite and within {HALF_LARGEST:g}, received {largest:g}; keep float32")
    if precision == "float16" or table.shape[-1] < NARROW:
        return table.astype(np.float16)
    peak = np.abs(table).max(axis=-1, keepdims=True).astype(np.float64) / CODES
    _, exponent = np.frexp(np.maximum(peak, 2.0**-120))
    exponent = exponent - 1  # peak = 2^exponent times 1 to 2
    steps = np.ceil((np.maximum(peak, 2.0**-120) / 2.0**exponent - 1.0) * 256.0)
    exponent, steps = np.where(steps >= 256, exponent + 1, exponent), np.where(steps >= 256, 0, steps)
    scale = 2.0**exponent * (1.0 + steps / 256.0)
    codes = np.clip(np.rint(table / scale), -CODES, CODES)
    return np.concatenate([codes, exponent, steps - 128], axis=-1).astype(np.int8)


def restore_rows(rows: Any, *, ops: Any = keras_ops) -> Any:
    """Rows of a stored form, of any shape [..., W or W + 2], as f32 [..., W]."""
    if _kind(rows) != "int8":
        return ops.cast(rows, "float32")
    values = ops.cast(rows, "float32")
    return values[..., :-SCALE_BYTES] * scales(values)[..., None]


def scales(values: Any) -> Any:
    """s of int8 rows whose bytes have been cast to floats, [..., W + 2] -> [...]."""
    return 2.0 ** values[..., -SCALE_BYTES] * (1.0 + (values[..., -SCALE_BYTES + 1] + 128.0) / 256.0)


def take_rows(table: Any, rows: Any, *, ops: Any = keras_ops) -> Any:
    """Lines of a table in any stored form for rows of any shape, as f32: gathered first, so that only they are restored."""
    return restore_rows(ops.take(table, rows, axis=0), ops=ops)


def _kind(array: Any) -> str:
    dtype = array.dtype
    return dtype if isinstance(dtype, str) else getattr(dtype, "name", str(dtype))
