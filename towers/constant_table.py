"""Tables that a layer gathers from and training leaves as they are."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


def constant_table(layer: keras.layers.Layer, values: Any, dtype: str, name: str) -> Any:
    """An untrained variable of a layer with these values, or a constant where there are none.

    A table without numbers has nothing to look up, and as a variable it ends a process among several workers.

    Example:
        >>> layer = keras.layers.Layer()
        >>> table = constant_table(layer, [[1.0], [2.0]], "float32", "prices")
        >>> ops.convert_to_numpy(table).tolist(), len(layer.non_trainable_variables)
        ([[1.0], [2.0]], 1)
    """
    if not np.size(values):
        return ops.zeros(np.shape(values), dtype=dtype)
    return layer.add_weight(
        shape=np.shape(values),
        dtype=dtype,
        trainable=False,
        name=name,
        # An initialiser that returns the values themselves: the table never exists twice on the device.
        initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype),
    )
