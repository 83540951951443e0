"""Explicit feature crosses: DCN-v2's cross layer, with a full matrix or a low-rank one, and a stack of them."""

from __future__ import annotations

import keras
from keras import ops


class CrossLayer(keras.layers.Layer):
    """One DCN-v2 cross: every output is the input plus a product with the first layer's input.

        full rank:  x_{l+1} = x_0 * (x_l W + b) + x_l          W [X, X]
        low rank:   x_{l+1} = x_0 * (x_l V U + b) + x_l        V [X, R], U [R, X]

    After l layers the output holds products of up to l + 1 input features.

    Paper: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
    Systems", WWW 2021, https://arxiv.org/abs/2008.13535.

    Args:
        rank: R; 0 = full rank.
        seed: of the initial weights.

    Shapes: `call(x0 [..., X], x [..., X]) -> [..., X]`.

    Raises:
        ValueError: if `rank` is negative, or the two inputs differ in width.

    Example:
        >>> import numpy as np
        >>> layer = CrossLayer(rank=2)
        >>> layer(np.ones((4, 3), "float32"), np.ones((4, 3), "float32")).shape == (4, 3)
        True
    """

    def __init__(self, rank: int = 0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if rank < 0:
            raise ValueError(f"rank must be at least 0 (0 = full rank), received {rank}")
        self.rank = int(rank)
        self.seed = int(seed)

    def build(self, x0_shape, x_shape):
        width = x0_shape[-1]
        if x_shape[-1] != width:
            raise ValueError(f"x must have the width of x0 ({width}), received width {x_shape[-1]}")
        self.down = None
        if self.rank:
            self.down = self.add_weight(
                shape=(width, self.rank), initializer=keras.initializers.GlorotUniform(self.seed), name="down"
            )
        # Small at first: the stack starts near the identity, and training adds the crosses that pay.
        self.up = self.add_weight(
            shape=(self.rank or width, width),
            initializer=keras.initializers.RandomNormal(stddev=0.01, seed=self.seed + 1),
            name="up",
        )
        self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")

    def call(self, x0, x):
        inner = x if self.down is None else ops.matmul(x, self.down)
        return x0 * (ops.matmul(inner, self.up) + self.bias) + x

    def compute_output_shape(self, x0_shape, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "rank": self.rank, "seed": self.seed}


class CrossNetwork(keras.layers.Layer):
    """DCN-v2's crosses as an interaction (see `ranking.interactions`): the deep part runs beside them, on x_0.

    Args:
        width: X. layers: number of crosses. rank: of each, 0 = full. seed: of the initial weights.

    Shapes: `call(x0 [..., X]) -> x_l [..., X], x0 [..., X]`.
    """

    def __init__(self, width: int, layers: int, rank: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.crosses = [CrossLayer(rank, seed=seed + 10 * place, name=f"cross_{place}") for place in range(layers)]
        for cross in self.crosses:
            cross.build((None, width), (None, width))
        self.straight_width = self.onward_width = width
        self.built = True

    def call(self, x0, noise=None):
        crossed = x0
        for cross in self.crosses:
            crossed = cross(x0, crossed)
        return crossed, x0
