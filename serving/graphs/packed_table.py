"""Embedding tables of text encoders, small: rows that were four bits once become four bits again, without loss."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

BLOCK = 32
"""Values that share a scale, as in the Q4_0 format of ggml."""

CHUNK = 16_384


class PackedTable(tf.Module):
    """A table [V, F] of which a request reads a few rows.

    A table made of blocks `x = half(d (q - 8))` with a half-precision scale d and q in 0..15 (Q4_0, as the multilingual
    E5 of the pack comes) is packed again into q and d: 54 MB instead of 384, and the same numbers, bit for bit. Any
    other table is kept in half precision, whose rounding (2^-11 of each value) moves no cosine by more than 1e-6.

    Args:
        table: float [V, F].
        name: prefix of the variables.

    Shapes: rows int [R] -> float32 [R, F].

    Example:
        >>> table = PackedTable(np.arange(-8, 8, dtype=np.float32).repeat(4).reshape(2, 32)[[0, 0]], "words")
        >>> table.bits, table.rows([1]).numpy()[0, :5].tolist()
        (4, [-8.0, -8.0, -8.0, -8.0, -7.0])
    """

    def __init__(self, table: np.ndarray, name: str):
        super().__init__(name=name)
        packed = pack_four_bits(table)
        self.bits = 16 if packed is None else 4
        if packed is None:
            self.half = tf.Variable(table.astype(np.float16), trainable=False, name=f"{name}_half")
        else:
            self.codes = tf.Variable(packed[0], trainable=False, name=f"{name}_codes")
            self.scales = tf.Variable(packed[1], trainable=False, name=f"{name}_scales")

    def rows(self, rows) -> tf.Tensor:
        """The rows, unpacked."""
        if self.bits == 16:
            return tf.cast(tf.gather(self.half, rows), tf.float32)
        codes, scales = tf.gather(self.codes, rows), tf.gather(self.scales, rows)
        blocks = scales.shape[1]
        codes = tf.reshape(codes, (-1, blocks, BLOCK // 2))
        values = tf.concat([tf.bitwise.bitwise_and(codes, 15), tf.bitwise.right_shift(codes, 4)], axis=2)
        unpacked = (tf.cast(values, tf.float32) - 8.0) * tf.cast(scales, tf.float32)[:, :, None]
        return tf.reshape(tf.cast(tf.cast(unpacked, tf.float16), tf.float32), (-1, blocks * BLOCK))


def pack_four_bits(table: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes uint8 [V, F / 2] and scales float16 [V, F / 32] of a table that four bits hold exactly; None for any other.

    Formula: the value of largest size in a block has the code 0, so `d = x_max / -8`, and `q = x / d + 8`.
    """
    rows, width = table.shape
    if width % BLOCK:
        return None
    codes, scales = np.zeros((rows, width // 2), np.uint8), np.zeros((rows, width // BLOCK), np.float16)
    for start in range(0, rows, CHUNK):
        blocks = np.asarray(table[start : start + CHUNK], np.float32).reshape(-1, BLOCK)
        largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)]
        with np.errstate(over="ignore"):
            scale = (largest / -8).astype(np.float16).astype(np.float32)
        safe = np.where(np.isfinite(scale) & (scale != 0), scale, 1)
        code = np.clip(np.rint(blocks / safe[:, None]) + 8, 0, 15)
        if not np.array_equal(((code - 8) * scale[:, None]).astype(np.float16), blocks):
            return None
        code = code.astype(np.uint8)
        half = BLOCK // 2
        codes[start : start + CHUNK] = (code[:, :half] | code[:, half:] << 4).reshape(-1, width // 2)
        scales[start : start + CHUNK] = scale.reshape(-1, width // BLOCK)
    return codes, scales
