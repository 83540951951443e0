"""FinalMLP: two perceptrons that look at differently gated features, and a bilinear fusion of what they see."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.perceptron import Perceptron

USER_GROUPS, ITEM_GROUPS = ("profile", "context"), ("attributes", "popularity", "price", "recency")
"""What the gates of the two streams read: who asks and when; what kind of item it is."""


class FinalMLP(keras.layers.Layer):
    """Two streams with feature gating and multi-head bilinear fusion, an interaction (see `ranking.interactions`).

        g_s = 2 sigmoid(x_0[gate columns of s] G_s + c_s);  o_s = perceptron_s(g_s * x_0),  s = 1, 2
        fused = (o_1, o_2, (o_1j B_j) * o_2j for every head j)

    o_sj is the j-th of J equal parts of o_s. A linear head on `fused` with ones on the last part is the paper's
    b + w_1 o_1 + w_2 o_2 + sum_j o_1j B_j o_2j; other weights give every task a fusion of its own. Gates start at 1.

    Paper: Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023,
    https://arxiv.org/abs/2304.00902.

    Args:
        groups: name -> ranges of columns of x_0. width: X. hidden: widths of each stream's layers.
        heads: J, divides the last of them. dropout: rate of the streams. seed: of the initial weights.

    Shapes: `call(x0 [..., X]) -> fused [..., 3 H], fused` with H the last of `hidden`.

    Raises:
        ValueError: without layers, or if J does not divide H.

    Example:
        >>> layer = FinalMLP({"profile": [(0, 2)], "price": [(2, 3)]}, 3, (8, 4), heads=2, dropout=0.0, seed=0)
        >>> layer(np.ones((5, 3), "float32"))[0].shape == (5, 12)
        True
    """

    def __init__(
        self,
        groups: dict[str, list[tuple[int, int]]],
        width: int,
        hidden: tuple[int, ...],
        heads: int,
        dropout: float,
        seed: int,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hidden or heads < 1 or hidden[-1] % heads:
            raise ValueError(f"heads must divide the last width of stream_hidden, received {heads} and {tuple(hidden)}")
        self.heads, self.gates, self.columns, self.streams = int(heads), [], [], []
        for place, names in enumerate((USER_GROUPS, ITEM_GROUPS)):
            ranges = [span for name in names for span in groups.get(name, [])]
            columns = np.concatenate([np.arange(0), *(np.arange(*span) for span in ranges)]).astype(np.int32)
            gate = keras.layers.Dense(width, kernel_initializer="zeros", name=f"gate_{place}")
            gate.build((None, max(len(columns), 1)))
            self.gates.append(gate)
            self.columns.append(columns)
            self.streams.append(Perceptron(width, hidden, dropout, seed + 100 * place, name=f"stream_{place}"))
        self.part = hidden[-1] // self.heads
        start = keras.initializers.GlorotUniform(seed=seed + 300)
        self.bilinear = self.add_weight((self.heads, self.part, self.part), initializer=start, name="bilinear")
        self.straight_width = self.onward_width = 3 * hidden[-1]
        self.built = True

    def call(self, x0, noise=None):
        seen = []
        for gate, columns, stream in zip(self.gates, self.columns, self.streams, strict=True):
            # Data without any of the gate's columns leaves it its bias: a learned weight for each feature.
            read = ops.take(x0, columns, axis=-1) if len(columns) else ops.zeros_like(x0[..., :1])
            seen.append(stream(2.0 * ops.sigmoid(gate(read)) * x0, noise=noise))
        shape = (*ops.shape(x0)[:-1], self.heads, self.part)
        first, second = (ops.reshape(output, shape) for output in seen)
        fused = ops.einsum("...jp,jpq->...jq", first, self.bilinear) * second
        fused = ops.reshape(fused, (*ops.shape(x0)[:-1], self.heads * self.part))
        joined = ops.concatenate([*seen, fused], axis=-1)
        return joined, joined
