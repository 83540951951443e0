"""A transformer block that treats a masked token as one that is not there."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class TransformerBlock(keras.layers.Layer):
    """Pre-norm attention and feed-forward, both residual.

    Formula: `x' = x + A(LN(x), LN(c), LN(c))`, `y = x' + W_2 gelu(W_1 LN(x'))`; A is attention of several heads from the
    tokens x to a context c (x itself by default) where `allowed`. A's last map and W_2 start at 0, so that a fresh
    block is the identity. Vaswani et al. 2017; Xiong et al., *On Layer Normalization in the Transformer Architecture*, 2020.

    Args:
        width: D. heads: of the attention; must divide D. dropout: rate inside the feed-forward part.

    Shapes: tokens [B, T, D], allowed [B, T, S] bool or None, context [B, S, D] or None -> [B, T, D]. A token that may look at
    nothing gets numbers without meaning; whoever reads the output leaves it out.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if width % heads:
            raise ValueError(f"heads: must divide the width {width}, received {heads}")
        self.width, self.heads, self.rate, self.seed = width, heads, dropout, seed
        uniform = keras.initializers.GlorotUniform(seed=seed)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.query = keras.layers.Dense(width, kernel_initializer=uniform, name="query")
        self.key = keras.layers.Dense(width, kernel_initializer=uniform, name="key")
        self.value = keras.layers.Dense(width, kernel_initializer=uniform, name="value")
        self.mixed = keras.layers.Dense(width, kernel_initializer="zeros", name="mixed")
        self.middle_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="middle_norm")
        self.hidden = keras.layers.Dense(2 * width, activation="gelu", kernel_initializer=uniform, name="hidden")
        self.dropout = keras.layers.Dropout(dropout, seed=seed + 1)
        self.output_dense = keras.layers.Dense(width, kernel_initializer="zeros", name="output")

    def build(self, tokens_shape, allowed_shape=None, context_shape=None):
        shape = (None, None, self.width)
        for layer in (self.norm, self.query, self.key, self.value, self.mixed, self.middle_norm, self.hidden):
            layer.build(shape)
        self.output_dense.build((None, None, 2 * self.width))

    def call(self, tokens, allowed=None, context=None, training=False):
        near = self.norm(tokens)
        seen = near if context is None else self.norm(context)
        heads, part = self.heads, self.width // self.heads

        def split(values):
            return ops.reshape(values, (-1, values.shape[1], heads, part))

        scores = ops.einsum("bthd,bshd->bhts", split(self.query(near)), split(self.key(seen))) / part**0.5
        scores = ops.cast(scores, "float32")
        if allowed is not None:
            scores = ops.where(allowed[:, None], scores, -1e9)
        weights = ops.cast(ops.softmax(scores, axis=-1), seen.dtype)
        taken = ops.einsum("bhts,bshd->bthd", weights, split(self.value(seen)))
        tokens = tokens + self.mixed(ops.reshape(taken, (-1, tokens.shape[1], self.width)))
        hidden = self.dropout(self.hidden(self.middle_norm(tokens)), training=training)
        return tokens + self.output_dense(hidden)

    def compute_output_shape(self, tokens_shape, allowed_shape=None, context_shape=None):
        return tokens_shape

    def get_config(self):
        own = {"width": self.width, "heads": self.heads, "dropout": self.rate, "seed": self.seed}
        return {**super().get_config(), **own}
