"""How often an item is met as a negative, and negatives kept from earlier batches."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from towers.losses import MASKED_LOGIT
from towers.table_rows import read_rows, write_rows


def mixed_log_q(shares, batch_size, uniform: int, items: int):
    """log Q of a mixture: B draws by popularity and M uniform draws from N items.

    Formula: `Q(j) = (B p_j + M / N) / (B + M)`. Yang et al., *Mixed Negative Sampling for Learning Two-Tower Neural
    Networks in Recommendations*, WWW 2020. Shapes: shares p [C] -> [C].

    Example:
        >>> ops.convert_to_numpy(ops.exp(mixed_log_q(ops.array([0.5, 0.0]), 3, 1, 4))).astype(float).round(4).tolist()
        [0.4375, 0.0625]
    """
    return ops.log((batch_size * shares + uniform / items) / (batch_size + uniform))


class StreamingCounts(keras.layers.Layer):
    """The share of each item among the events, estimated from the batches as they come.

    Formula: at step t an item with n events in the batch and last met at a(j) moves its estimate of the steps between two
    of its events, `d_j <- (1 - r) d_j + r (t - a_j) / n`, then `a_j <- t`; `p_j = 1 / (d_j B)`. Yi et al.,
    *Sampling-Bias-Corrected Neural Modeling*, RecSys 2019, Algorithm 2, with one cell an item in place of hashing, and n
    because an item of the largest batches is met many times a step. Only cells of the batch's items are touched.

    Args:
        shares: [N + 1] the estimate to start from. rate: r. batch_size: B.
    """

    def __init__(self, shares, *, rate: float, batch_size: int, **kwargs):
        super().__init__(**kwargs)
        gaps = np.minimum(1.0 / np.maximum(np.asarray(shares, np.float64) * batch_size, 1e-12), 1e9)
        self.rate, self.batch_size = rate, batch_size
        self.gaps = self.add_weight(shape=gaps.shape, initializer="zeros", trainable=False, name="gaps")
        self.gaps.assign(gaps.astype(np.float32))
        # An item not met yet was, for all one knows, met half a gap ago; that would be a fraction of a step, so 0.
        self.last = self.add_weight(shape=gaps.shape, initializer="zeros", trainable=False, name="last", dtype="int32")
        self.step = self.add_weight(shape=(), initializer="zeros", trainable=False, name="step", dtype="int32")
        self.built = True

    def update(self, rows, copies) -> None:
        """Take in one batch: distinct rows [C], and how many events each has [C]; 0 = none, it is left as it was."""
        self.step.assign(self.step + 1)
        step = ops.convert_to_tensor(self.step)
        gaps, last = read_rows(self.gaps, rows), read_rows(self.last, rows)
        seen = copies > 0
        newest = ops.cast(step - last, "float32") / ops.maximum(copies, 1.0)
        write_rows(self.gaps, rows, ops.where(seen, (1 - self.rate) * gaps + self.rate * newest, gaps))
        write_rows(self.last, rows, ops.where(seen, step, last))

    def shares(self, rows):
        """p of the rows. [C] -> [C]."""
        return 1.0 / (ops.maximum(read_rows(self.gaps, rows), 1e-9) * self.batch_size)


class EmbeddingMemory(keras.layers.Layer):
    """Item embeddings of the last batches, as negatives that cost no item tower.

    They drift slowly, so a ring of them stands in for a larger batch. Wang et al., *Cross-Batch Memory for Embedding
    Learning*, CVPR 2020. An item of which the batch holds a fresh embedding is not taken from the memory.

    Args:
        size: embeddings kept. width: D.
    """

    def __init__(self, size: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size

        def table(shape, dtype, name):
            return self.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False, name=name)

        self.vectors, self.bias = table((size, width), "float32", "vectors"), table((size,), "float32", "bias")
        self.rows, self.place = table((size,), "int32", "rows"), table((), "int32", "place")
        self.built = True

    def recall(self, fresh_rows):
        """What is kept, and its bias: MASKED_LOGIT for empty places and items that the batch holds. fresh_rows: [C].

        Shapes: -> [size, D], [size].
        """
        kept = ops.convert_to_tensor(self.rows)
        ordered = ops.sort(fresh_rows)
        place = ops.minimum(ops.searchsorted(ordered, kept), ops.shape(ordered)[0] - 1)
        stale = ops.logical_or(ops.take(ordered, place) == kept, kept == 0)
        return ops.convert_to_tensor(self.vectors), ops.where(stale, MASKED_LOGIT, ops.convert_to_tensor(self.bias))

    def keep(self, rows, vectors, bias) -> None:
        """Write a batch's columns over the oldest. Shapes: rows [C], vectors [C, D], bias [C], C <= size; row 0 = empty."""
        number = ops.shape(rows)[0]
        start = ops.convert_to_tensor(self.place)
        places = (start + ops.arange(number, dtype="int32")) % self.size
        write_rows(self.vectors, places, ops.stop_gradient(vectors))
        write_rows(self.bias, places, bias)
        write_rows(self.rows, places, rows)
        self.place.assign((start + number) % self.size)
