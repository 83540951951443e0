"""DLRM's interactions: every group of features becomes one vector, and every pair of vectors a dot product."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


class DotInteractions(keras.layers.Layer):
    """Dot products between the embeddings of all pairs of groups, an interaction (see `ranking.interactions`).

        e_g = x_0[group g] W_g + b_g;   z = (<e_g, e_h> / sqrt(E))_{g < h};   onward: (z, x_0)

    Paper: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019,
    https://arxiv.org/abs/1906.00091. There the groups are categorical columns and one dense vector; here they are those of
    `PairFeatures.groups`.

    Args:
        groups: name -> ranges of columns of x_0. width: E of the group embeddings. seed: of the initial weights.

    Shapes: `call(x0 [..., X]) -> z [..., G (G - 1) / 2], onward [..., G (G - 1) / 2 + X]`.

    Example:
        >>> layer = DotInteractions({"a": [(0, 2)], "b": [(2, 3)], "c": [(3, 4)]}, width=4, seed=0)
        >>> dots, onward = layer(np.ones((5, 4), "float32"))
        >>> dots.shape == (5, 3), onward.shape == (5, 7)
        (True, True)
    """

    def __init__(self, groups: dict[str, list[tuple[int, int]]], width: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.ranges, self.embedding_width = list(groups.values()), int(width)
        self.projections = []
        for place, (name, ranges) in enumerate(groups.items()):
            start = keras.initializers.GlorotUniform(seed=seed + place)
            dense = keras.layers.Dense(width, kernel_initializer=start, name=f"{name}_embedding")
            dense.build((None, sum(end - begin for begin, end in ranges)))
            self.projections.append(dense)
        count = len(groups)
        first, second = np.triu_indices(count, k=1)
        self.pairs = (first * count + second).astype(np.int32)
        self.straight_width = len(self.pairs)
        self.onward_width = self.straight_width + sum(end - begin for ranges in self.ranges for begin, end in ranges)
        self.built = True

    def call(self, x0, noise=None):
        embeddings = ops.stack(
            [
                dense(ops.concatenate([x0[..., begin:end] for begin, end in ranges], axis=-1))
                for dense, ranges in zip(self.projections, self.ranges, strict=True)
            ],
            axis=-2,
        )
        products = ops.matmul(embeddings, ops.swapaxes(embeddings, -1, -2)) / self.embedding_width**0.5
        flat = ops.reshape(products, (*ops.shape(x0)[:-1], len(self.ranges) ** 2))
        dots = ops.take(flat, self.pairs, axis=-1)
        return dots, ops.concatenate([dots, x0], axis=-1)
