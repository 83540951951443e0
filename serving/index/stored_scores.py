"""Dot products of queries with a whole table in its stored form, a block of rows at a time."""

from __future__ import annotations

import tensorflow as tf

from ranking.stored_rows import SCALE_BYTES, scales

BLOCK_VALUES = 1 << 19
"""Numbers restored at a time: 2 MB of floats, which stay in a core's cache until they are multiplied."""


def score_all(table: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """Scores of every row, f32 [B, N + 1].

    A table of float32 is multiplied as it lies. Of any other form (`ranking.stored_rows`) a block is restored, multiplied
    and let go before the next one, so that memory for the floats stays small, whatever the table's size; a table whose
    number of rows the graph does not know is one block.

    Shapes: table [N + 1, D], or int8 [N + 1, D + 2]; queries f32 [B, D].
    """
    if table.dtype == tf.float32:
        return tf.matmul(queries, table, transpose_b=True)
    table, eight_bits = tf.convert_to_tensor(table), table.dtype == tf.int8
    rows = table.shape[0] or tf.shape(table)[0]
    step = max(1, BLOCK_VALUES // int(table.shape[1])) if isinstance(rows, int) else rows
    if eight_bits:  # q · (s c) = s (q · c): the codes are multiplied as they lie, the bytes of the scale by 0
        queries = tf.pad(queries, [[0, 0], [0, SCALE_BYTES]])
    parts: list[tf.Tensor] = []
    for start in range(0, rows, step) if isinstance(rows, int) else (0,):
        with tf.control_dependencies(parts[-1:]):
            block = tf.cast(table[start : start + step], tf.float32)
        scores = tf.matmul(queries, block, transpose_b=True)
        parts.append(scores * scales(block) if eight_bits else scores)
    return tf.concat(parts, axis=1)
