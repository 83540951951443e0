"""A stack of dense layers whose dropout noise is an argument."""

from __future__ import annotations

import keras


class Perceptron(keras.layers.Layer):
    """Dense layers with ReLU, each followed by dropout where noise is given; without layers it is the identity.

        x_{l+1} = dropout(relu(x_l W_l + b_l))

    Args:
        width_in: of the input. hidden: widths of the layers. dropout: rate. seed: of the initial weights.

    Attributes:
        width: of the output.

    Shapes: `call(x [..., width_in], noise=None) -> [..., width]`; `noise` is a `keras.random.SeedGenerator` in training.

    Example:
        >>> import numpy as np
        >>> Perceptron(3, (4, 2), 0.1, seed=0)(np.ones((5, 3), "float32")).shape == (5, 2)
        True
    """

    def __init__(self, width_in: int, hidden: tuple[int, ...], dropout: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.layers, self.width, self.dropout = [], width_in, float(dropout)
        for place, units in enumerate(hidden):
            start = keras.initializers.GlorotUniform(seed=seed + place)
            dense = keras.layers.Dense(units, activation="relu", kernel_initializer=start, name=f"dense_{place}")
            dense.build((None, self.width))
            self.layers.append(dense)
            self.width = int(units)
        self.built = True

    def call(self, x, noise=None):
        for dense in self.layers:
            x = dense(x)
            if noise is not None and self.dropout:
                x = keras.random.dropout(x, self.dropout, seed=noise)
        return x
