"""A Keras 3 model inside a `tf.Module`: its weights as plain variables under names of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class KerasWeights(tf.Module):
    """Runs a Keras layer or model on copies of its weights.

    Keras numbers its variables by a counter of the process and tracks a tree of layers; a SavedModel of copies has the
    same bytes in any process, and serves when the layer's class is long gone.

    Args:
        model: a built layer or model; it keeps its own weights.
        name: prefix of the variables.

    Raises:
        ValueError: the model has no weights, so it was not built.
    """

    def __init__(self, model: Any, name: str):
        super().__init__(name=name)
        if not model.weights:
            raise ValueError(
                f"model: must be built, received {type(model).__name__} without weights; call or load it first"
            )
        self._call: Callable = lambda function, *inputs: function(model, *inputs)
        self._keys: Callable = lambda: list(model.weights)
        self.values = [
            tf.Variable(
                keras.ops.convert_to_numpy(weight), dtype=weight.dtype, trainable=False, name=f"{name}_{place:03d}"
            )
            for place, weight in enumerate(model.weights)
        ]

    def __call__(self, *inputs: Any) -> Any:
        """What the model answers in inference mode."""
        return self.run(lambda model, *given: model(*given), *inputs)

    def method(self, name: str, *inputs: Any) -> Any:
        """What a method of the model answers."""
        return self.run(lambda model, *given: getattr(model, name)(*given), *inputs)

    def run(self, function: Callable, *inputs: Any) -> Any:
        """What `function(model, *inputs)` answers."""
        values = [tf.convert_to_tensor(value) for value in self.values]
        with keras.StatelessScope(state_mapping=list(zip(self._keys(), values, strict=True))):
            return self._call(function, *inputs)
