"""A Keras 3 model inside a `tf.Module`: its weights as plain variables under names of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ranking.stored_rows import HALF_LARGEST, Precision, store_rows


class KerasWeights(tf.Module):
    """Runs a Keras layer or model on copies of its weights.

    Keras numbers its variables by a counter of the process and tracks a tree of layers; a SavedModel of copies has the
    same bytes in any process, and serves when the layer's class is long gone.

    Args:
        model: a built layer or model; it keeps its own weights.
        name: prefix of the variables.
        precision: how weights are kept: `tables` in that form; other matrices in half precision unless it is "float32",
            and cast when the model is called; vectors, numbers and whatever half precision cannot hold as they are.
        tables: weights that the model reads by `ranking.stored_rows.take_rows` and in no other way; None = what its method
            `row_tables` names, where it has one. Of these, and of what `code_tables` names, the graph does not know how many
            lines they have: it is that of every catalogue.

    Raises:
        ValueError: the model has no weights, so it was not built.
    """

    def __init__(self, model: Any, name: str, precision: Precision = "float32", tables: Sequence[Any] | None = None):
        super().__init__(name=name)
        if not model.weights:
            raise ValueError(
                f"model: must be built, received {type(model).__name__} without weights; call or load it first"
            )
        self._call: Callable = lambda function, *inputs: function(model, *inputs)
        self._keys: Callable = lambda: list(model.weights)
        if tables is None:
            tables = model.row_tables() if hasattr(model, "row_tables") else ()
        read_by_row = {id(table) for table in tables}
        grown = read_by_row | {id(table) for table in (model.code_tables() if hasattr(model, "code_tables") else ())}
        self._is_grown: Callable = lambda weight: id(weight) in grown
        self.values = []
        for place, weight in enumerate(model.weights):
            value = _stored(weight, precision, id(weight) in read_by_row)
            shape = tf.TensorShape((None, *value.shape[1:]) if id(weight) in grown else value.shape)
            self.values.append(tf.Variable(value, trainable=False, shape=shape, name=f"{name}_{place:03d}"))

    def __call__(self, *inputs: Any) -> Any:
        """What the model answers in inference mode."""
        return self.run(lambda model, *given: model(*given), *inputs)

    def method(self, name: str, *inputs: Any) -> Any:
        """What a method of the model answers."""
        return self.run(lambda model, *given: getattr(model, name)(*given), *inputs)

    def run(self, function: Callable, *inputs: Any) -> Any:
        """What `function(model, *inputs)` answers."""
        values = [tf.convert_to_tensor(value) for value in self.values]
        pairs = list(zip(self._keys(), values, strict=True))
        scope = keras.StatelessScope(state_mapping=[pair for pair in pairs if not self._is_grown(pair[0])])
        for key, value in pairs:
            if self._is_grown(key):
                # Past the constructor, which would cast the whole table and compare its lines.
                scope.state_mapping[id(key)] = value
        with scope:
            return self._call(function, *inputs)


def _stored(weight: Any, precision: Precision, by_row: bool) -> np.ndarray:
    value = np.asarray(keras.ops.convert_to_numpy(weight))
    if precision == "float32" or value.dtype != np.float32 or value.ndim < 2:
        return value
    if by_row:
        return store_rows(value, precision)
    largest = float(np.abs(value).max(initial=0.0))
    return value.astype(np.float16) if largest <= HALF_LARGEST else value
