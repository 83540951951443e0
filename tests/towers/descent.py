"""Gradient descent on one array, on whatever backend Keras runs: to see where a loss leads."""

from collections.abc import Callable

import keras
import numpy as np


class Held(keras.Model):
    """One array as the only weight, and a loss of it."""

    def __init__(self, start: np.ndarray, loss: Callable):
        super().__init__()
        self.array = self.add_weight(shape=start.shape, name="array")
        self.array.assign(start)
        self.loss_of = loss
        self.built = True

    def call(self, inputs):
        return self.loss_of(keras.ops.convert_to_tensor(self.array)) + 0.0 * keras.ops.sum(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred


def descend(loss: Callable, start: np.ndarray, *, steps: int, rate: float) -> np.ndarray:
    """The array after so many plain gradient steps on `loss(array)`."""
    model = Held(start, loss)
    model.compile(keras.optimizers.SGD(rate), jit_compile=False)
    model.fit(np.zeros((steps, 1), "float32"), batch_size=1, epochs=1, verbose=0, shuffle=False)
    return np.array(keras.ops.convert_to_numpy(model.array.value))
