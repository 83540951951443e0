"""A few rows of a large table, read and written where they lie, so that a step costs the same for any size of table."""

from __future__ import annotations

import keras
from keras import ops


def read_rows(table: keras.Variable, rows):
    """Rows of a table. Shapes: table [N, ...], rows [A] int -> [A, ...]."""
    value = table.value
    # A variable of TensorFlow that is written in parts is copied whole whenever it is read as a whole.
    return value.sparse_read(rows) if hasattr(value, "sparse_read") else ops.take(value, rows, axis=0)


def write_rows(table: keras.Variable, rows, values) -> None:
    """Put rows in their place; a row named twice must be given the same values twice. Shapes: as `read_rows`.

    Example:
        >>> table = keras.Variable(ops.zeros((4, 1)))
        >>> write_rows(table, ops.array([1, 3]), ops.array([[5.0], [7.0]]))
        >>> ops.convert_to_numpy(table.value).ravel().tolist()
        [0.0, 5.0, 0.0, 7.0]
    """
    value = table.value
    if hasattr(value, "scatter_nd_update"):
        value.scatter_nd_update(rows[:, None], ops.cast(values, table.dtype))
    else:  # under `jit`, XLA gives the old table's memory to the new one
        table.assign(ops.scatter_update(value, rows[:, None], ops.cast(values, table.dtype)))
