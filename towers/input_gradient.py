"""The gradient of a gain by a model's inputs, on whichever backend Keras runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

Gain = Callable[[dict[str, Any]], Any]
"""{name: tensor [B, ...]} -> [B], what is to grow, each line's its own; written in `keras.ops`."""


class InputGradient(keras.Model):
    """What a function gives for each line of its inputs, and in which direction each line would give more.

    Keras differentiates by weights alone, and the same way on every backend; so the inputs are made weights, and an
    optimizer that moves nothing keeps their gradients. One instance answers for any inputs of its shapes and is traced
    once.

    Args:
        gain: see `Gain`. Lines must not depend on each other: the gradient is that of their sum.
        shapes: {name: shape of the input, B first}.

    Example:
        >>> squares = InputGradient(lambda inputs: ops.sum(inputs["x"] ** 2, axis=-1), {"x": (2, 2)})
        >>> values, gradients = squares.at({"x": np.array([[1.0, 2.0], [0.0, 3.0]])})
        >>> values.tolist(), gradients["x"].tolist()
        ([5.0, 9.0], [[2.0, 4.0], [0.0, 6.0]])
    """

    def __init__(self, gain: Gain, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__(name="input_gradient")
        if not shapes or len({shape[0] for shape in shapes.values()}) != 1:
            raise ValueError(f"shapes: must name inputs of one length B, received {dict(shapes)}")
        self._gain = gain
        self.points = {
            name: self.add_weight(shape=tuple(shape), initializer="zeros", name=f"point_{place}")
            for place, (name, shape) in enumerate(shapes.items())
        }
        lines = next(iter(shapes.values()))[0]
        self.value = self.add_weight(shape=(lines,), initializer="zeros", trainable=False, name="value")
        self.built = True
        self.compile(optimizer=KeepGradients(), jit_compile=False)
        self.optimizer.build(list(self.points.values()))

    def call(self, inputs):
        # No argument `training`: Keras would hand it down, and dropout inside would answer differently every time.
        values = self._gain({name: ops.convert_to_tensor(point) for name, point in self.points.items()})
        self.value.assign(ops.stop_gradient(values))
        return values

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sum(y_pred)

    def at(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values [B] and gradients {name: [B, ...]} at the given inputs, float32."""
        for name, point in self.points.items():
            point.assign(np.asarray(inputs[name], np.float32))
        self.train_on_batch(np.zeros((1, 1), np.float32))
        kept = {
            name: ops.convert_to_numpy(gradient)
            for name, gradient in zip(self.points, self.optimizer.kept, strict=True)
        }
        return np.array(ops.convert_to_numpy(self.value)), {name: np.array(part) for name, part in kept.items()}


class KeepGradients(keras.optimizers.Optimizer):
    """An optimizer that moves nothing and remembers what it was given.

    Attributes:
        kept: the gradients of the last step, in the order of the variables.
    """

    def __init__(self, **settings):
        super().__init__(learning_rate=0.0, name="keep_gradients", **settings)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.kept = [self.add_variable_from_reference(variable, "kept") for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        self.assign(self.kept[self._get_variable_index(variable)], gradient)
