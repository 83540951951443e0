"""A user's recent items pooled to one vector: by attention, or by a causal transformer over the events."""

from __future__ import annotations

import keras
from keras import ops

from data.schema import EVENT_KINDS
from towers.transformer import TransformerBlock

GAP_BUCKETS = 32
"""Powers of two of seconds: bucket 1 is below 2 s, bucket 32 from 68 years on; 0 = unknown."""


@keras.saving.register_keras_serializable("triptych")
class HistoryAttention(keras.layers.Layer):
    """Pool a history of item embeddings by attention, the query coming from the user's side.

    Formula: `a = softmax_L(q W_q (h + p) W_k^T / sqrt(D))` over the unmasked steps, `pooled = sum_l a_l h_l`, with p a
    learned embedding of "how many steps ago". An empty history pools to 0.

    Shapes: query [B, D], history [B, L, D], mask [B, L] bool -> pooled [B, D], weights [B, L].
    """

    def __init__(self, length: int, width: int, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.position = self.add_weight(
            shape=(length, width), initializer=keras.initializers.RandomNormal(0.0, 0.02, seed=seed), name="position"
        )
        self.query_dense = keras.layers.Dense(width, name="query")
        self.key_dense = keras.layers.Dense(width, name="key")
        self.query_dense.build((None, width))
        self.key_dense.build((None, None, width))
        self.built = True

    def call(self, query, history, mask):
        steps = history.shape[1]
        keys = self.key_dense(history + self.position[:steps])
        scores = ops.einsum("bd,bld->bl", self.query_dense(query), keys) / self.width**0.5
        scores = ops.where(mask, ops.cast(scores, "float32"), -1e9)
        weights = ops.cast(ops.softmax(scores, axis=-1), history.dtype) * ops.cast(mask, history.dtype)
        return ops.einsum("bl,bld->bd", weights, history), weights


@keras.saving.register_keras_serializable("triptych")
class HistoryTransformer(keras.layers.Layer):
    """A causal transformer over event tokens, read at the most recent event.

    Formula: `t_l = h_l + p_l + k_{kind(l)} + g_{bucket(gap(l))}` with h the item's embedding (id and content), p "how many
    steps ago", k the kind of event, g the time gap; lower layers let every event look at itself and the `block - 1`
    events before it, the last layer lets the most recent one look at all. Kang and McAuley, *Self-Attentive Sequential
    Recommendation*, ICDM 2018; Li et al., *Time Interval Aware Self-Attention*, WSDM 2020.

    Memory: at most `B * heads * L * 2 * block` scores a layer: linear in L. Up to `block` events every layer sees all.

    Args:
        length: L at most. width: D. layers, heads: of the transformer. block: reach of the lower layers.
        dropout: rate in the feed-forward parts. seed: of the weights.

    Shapes: history [B, L, D] (most recent first), history_mask [B, L] bool (padding last), kinds and buckets int32 [B, L]
    or None (unknown) -> pooled [B, D], 0 for an empty history.
    """

    def __init__(
        self,
        length: int,
        width: int,
        *,
        layers: int = 2,
        heads: int = 2,
        block: int = 64,
        dropout: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if layers < 1 or block < 1:
            raise ValueError(f"layers, block: must be at least 1, received {layers} and {block}")
        normal = keras.initializers.RandomNormal(0.0, 0.02, seed=seed)
        self.block = block
        self.position = self.add_weight(shape=(length, width), initializer=normal, name="position")
        self.kind = self.add_weight(shape=(1 + len(EVENT_KINDS), width), initializer=normal, name="kind")
        self.gap = self.add_weight(shape=(1 + GAP_BUCKETS, width), initializer=normal, name="gap")
        self.blocks = [
            TransformerBlock(width, heads, dropout, seed=seed + 10 * number, name=f"block_{number}")
            for number in range(layers)
        ]
        for part in self.blocks:
            part.build((None, None, width))
        self.built = True

    def call(self, history, history_mask, kinds=None, buckets=None, training=False):
        steps = history.shape[1]
        tokens = history + self.position[:steps]
        tokens = tokens + (self.kind[0] if kinds is None else ops.take(self.kind, kinds, axis=0))
        tokens = tokens + (self.gap[0] if buckets is None else ops.take(self.gap, buckets, axis=0))
        for part in self.blocks[:-1]:
            tokens = causal_attention(part, tokens, history_mask, self.block, training=training)
        latest = self.blocks[-1](tokens[:, :1], allowed=history_mask[:, None, :], context=tokens, training=training)[:, 0]
        return latest * ops.cast(ops.any(history_mask, axis=1, keepdims=True), latest.dtype)


def causal_attention(layer: TransformerBlock, tokens, mask, block: int, training=False):
    """Run a block over tokens of which each sees itself and the `block - 1` older ones, a block of queries at a time.

    Shapes: tokens [B, L, D] (most recent first), mask [B, L] bool -> [B, L, D].
    """
    length, width = tokens.shape[1], tokens.shape[2]
    if length <= block:  # all older ones at once: nothing lies in a block before, and half the work is saved
        older = ops.arange(length)[None, :] >= ops.arange(length)[:, None]
        return layer(tokens, allowed=ops.logical_and(older[None], mask[:, None, :]), training=training)
    size = block
    count = -(-length // size)
    spare = count * size - length
    ages = ops.arange(2 * size)[None, :] - ops.arange(size)[:, None]
    reach = ops.logical_and(ages >= 0, ages < block)
    tokens, mask = ops.pad(tokens, [[0, 0], [0, spare + size], [0, 0]]), ops.pad(mask, [[0, 0], [0, spare + size]])
    queries = ops.reshape(tokens[:, : count * size], (-1, size, width))
    older = ops.reshape(tokens[:, size:], (-1, size, width))
    keys_mask = ops.concatenate(
        [ops.reshape(mask[:, : count * size], (-1, size)), ops.reshape(mask[:, size:], (-1, size))], axis=1
    )
    allowed = ops.logical_and(reach[None], keys_mask[:, None, :])
    context = ops.concatenate([queries, older], axis=1)
    changed = layer(queries, allowed=allowed, context=context, training=training)
    return ops.reshape(changed, (-1, count * size, width))[:, :length]


def gap_buckets(seconds):
    """Bucket of a time gap, the power of two of seconds it lies in; 0 where it is negative or NaN, which is unknown.

    Formula: `1 + min(floor(log2(1 + s)), GAP_BUCKETS - 1)`. Shapes: float [...] -> int32 [...].

    Example:
        >>> ops.convert_to_numpy(gap_buckets(ops.array([-1.0, 0.0, 1.0, 3600.0, 1e12]))).tolist()
        [0, 1, 2, 12, 32]
    """
    known = seconds >= 0
    power = ops.floor(ops.log2(1.0 + ops.where(known, seconds, 0.0)) + 1e-6)
    return ops.where(known, 1 + ops.cast(ops.minimum(power, GAP_BUCKETS - 1.0), "int32"), 0)
