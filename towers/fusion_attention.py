"""Fusion by attention: over the modalities themselves, or through a few tokens between them."""

from __future__ import annotations

import keras
from keras import ops

from towers.transformer import TransformerBlock


@keras.saving.register_keras_serializable("triptych")
class AttentionFusion(keras.layers.Layer):
    """Weigh the modalities that are there by attention from what they say together.

    Formula: with `m = mean_{present} t`, `a = softmax_{present}(W_q m . W_k t_m / sqrt(D))`, `fused = sum_m a_m t_m`. With
    W_q = 0 at the start it is the mean. The order of modalities does not matter. Vaswani et al. 2017, with one query.

    Shapes: tokens [B, M, D], present [B, M] bool -> fused [B, D] and {"weights": [B, M]}, which add up to 1, or to 0 where
    nothing is present.
    """

    def build(self, tokens_shape, present_shape=None):
        width = tokens_shape[2]
        self.query = keras.layers.Dense(width, name="query", kernel_initializer="zeros")
        self.key = keras.layers.Dense(width, use_bias=False, name="key")
        self.query.build((None, width))
        self.key.build((None, None, width))

    def call(self, tokens, present):
        there = ops.cast(present, tokens.dtype)
        number = ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0)
        query = self.query(ops.sum(there[:, :, None] * tokens, axis=1) / number)
        scores = ops.einsum("bd,bmd->bm", query, self.key(tokens)) / tokens.shape[2] ** 0.5
        scores = ops.where(present, ops.cast(scores, "float32"), -1e9)
        weights = ops.cast(ops.softmax(scores, axis=-1), there.dtype) * there
        return ops.sum(weights[:, :, None] * tokens, axis=1), {"weights": weights}

    def compute_output_shape(self, tokens_shape, present_shape=None):
        return (tokens_shape[0], tokens_shape[2]), {"weights": (tokens_shape[0], tokens_shape[1])}


@keras.saving.register_keras_serializable("triptych")
class BottleneckFusion(keras.layers.Layer):
    """A transformer in which modalities meet only in a few fusion tokens.

    Formula: in every layer each modality m that is there attends to its own token and the fusion tokens,
    `[t_m'; z_m'] = Block([t_m + e_m; z])`, and the fusion tokens become what all made of them, `z' = mean_{present} z_m'`.
    At the end `fused = sum_{present} t_m + W mean(z)`. e_m is a learned vector a modality; the block is shared, for a
    catalogue has fewer items than a block a modality would need. W = 0 and blocks that are the identity make a fresh
    layer the plain sum. Nagrani et al., *Attention Bottlenecks for Multimodal Fusion*, NeurIPS 2021.

    Args:
        bottleneck: number of fusion tokens. layers: of the transformer. heads: of its attention. seed: of the weights.

    Shapes: tokens [B, M, D], present [B, M] bool -> fused [B, D] and {"bottleneck": [B, bottleneck, D]}.
    """

    def __init__(self, bottleneck: int = 4, layers: int = 1, heads: int = 2, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if bottleneck < 1 or layers < 1:
            raise ValueError(f"bottleneck, layers: must be at least 1, received {bottleneck} and {layers}")
        self.bottleneck, self.depth, self.heads, self.seed = bottleneck, layers, heads, seed

    def build(self, tokens_shape, present_shape=None):
        modalities, width = tokens_shape[1], tokens_shape[2]
        normal = keras.initializers.RandomNormal(0.0, 0.05, seed=self.seed)
        self.fusion_tokens = self.add_weight(shape=(self.bottleneck, width), initializer=normal, name="tokens")
        self.kinds = self.add_weight(shape=(modalities, width), initializer="zeros", name="kinds")
        self.blocks = [
            TransformerBlock(width, self.heads, seed=self.seed + 1 + number, name=f"block_{number}")
            for number in range(self.depth)
        ]
        for block in self.blocks:
            block.build((None, 1 + self.bottleneck, width))
        self.output_dense = keras.layers.Dense(width, use_bias=False, kernel_initializer="zeros", name="output")
        self.output_dense.build((None, width))

    def call(self, tokens, present):
        modalities, width = tokens.shape[1], tokens.shape[2]
        there = ops.cast(present, tokens.dtype)[:, :, None]
        number = ops.maximum(ops.sum(there, axis=1), 1.0)
        own = tokens
        meeting = ops.ones_like(tokens[:, :1]) * ops.cast(self.fusion_tokens, tokens.dtype)[None]
        for block in self.blocks:
            marked = (own + ops.cast(self.kinds, tokens.dtype))[:, :, None]
            around = ops.repeat(meeting[:, None], modalities, axis=1)
            pairs = ops.reshape(ops.concatenate([marked, around], axis=2), (-1, 1 + self.bottleneck, width))
            changed = ops.reshape(block(pairs), (-1, modalities, 1 + self.bottleneck, width))
            own = changed[:, :, 0]
            meeting = ops.sum(changed[:, :, 1:] * there[:, :, :, None], axis=1) / number[:, :, None]
        fused = ops.sum(own * there, axis=1) + self.output_dense(ops.mean(meeting, axis=1))
        return fused, {"bottleneck": meeting}

    def compute_output_shape(self, tokens_shape, present_shape=None):
        rows, width = tokens_shape[0], tokens_shape[2]
        return (rows, width), {"bottleneck": (rows, self.bottleneck, width)}

    def get_config(self):
        own = {"bottleneck": self.bottleneck, "layers": self.depth, "heads": self.heads, "seed": self.seed}
        return {**super().get_config(), **own}
