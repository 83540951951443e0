"""The user tower: who asks, and what they chose recently, in; one query vector out."""

from __future__ import annotations

import keras
from keras import ops

from data.schema import UNKNOWN_ROW, Schema
from towers.config import TowerConfig
from towers.fusion import unit_length


@keras.saving.register_keras_serializable("triptych")
class HistoryAttention(keras.layers.Layer):
    """Pool a history of item embeddings by attention, the query coming from the user's side.

    Formula: `a = softmax_L(q W_q (h + p) W_k^T / sqrt(D))` over the unmasked steps, `pooled = sum_l a_l h_l`, with p a
    learned
    embedding of "how many steps ago". An empty history pools to 0.

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
        scores = ops.where(mask, scores, -1e9)
        weights = ops.softmax(scores, axis=-1) * ops.cast(mask, scores.dtype)
        return ops.einsum("bl,bld->bd", weights, history), weights


@keras.saving.register_keras_serializable("triptych")
class UserTower(keras.layers.Layer):
    """User id + profile + attention over recent items, normalised to a query.

    History steps are the item tower's own embeddings, so they carry id, text, image and audio at once, training updates
    both towers through them, and a server needs nothing but the table of item embeddings. User id row 0 stands for
    every
    user who was not in training; id dropout trains it.

    Args:
        schema: sizes; `schema.profile` decides the profile columns (axis P).
        config: widths, history length L, dropout rates, seed.

    Shapes: user [B] int32, profile [B, P] int32, history [B, L, D], history_mask [B, L] bool -> queries [B, D] of unit
    length, and {"attention": [B, L], "history": [B, D]}.
    """

    def __init__(self, schema: Schema, config: TowerConfig, **kwargs):
        super().__init__(**kwargs)
        width, seed = config.width, config.seed + 100
        normal = keras.initializers.RandomNormal(0.0, 0.05, seed=seed)
        self.use_id = config.user_id
        self.id_dropout = config.user_id_dropout
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.id_embedding = keras.layers.Embedding(schema.user_rows, width, embeddings_initializer=normal, name="id")
        self.profile_embeddings = [
            keras.layers.Embedding(cardinality, width, embeddings_initializer=normal, name=f"profile_{name}")
            for name, cardinality in schema.profile.items()
        ]
        self.attention = HistoryAttention(config.history_length, width, seed=seed + 1, name="attention")
        self.dropout = keras.layers.Dropout(config.dropout, seed=seed + 2)
        self.mean_dense = keras.layers.Dense(width, kernel_initializer=keras.initializers.Identity(), name="mean")
        self.pooled_dense = keras.layers.Dense(width, kernel_initializer=keras.initializers.Identity(), name="pooled")
        self.hidden = keras.layers.Dense(2 * width, activation="gelu", name="hidden")
        self.output_dense = keras.layers.Dense(width, kernel_initializer="zeros", name="output")
        self.id_embedding.build((None,))
        for layer in self.profile_embeddings:
            layer.build((None,))
        self.mean_dense.build((None, width))
        self.pooled_dense.build((None, width))
        self.hidden.build((None, 3 * width))
        self.output_dense.build((None, 2 * width))
        self.built = True

    def call(self, user, profile, history, history_mask, training=False):
        if not self.use_id:
            user = ops.zeros_like(user)
        elif training and self.id_dropout:
            kept = keras.random.uniform(ops.shape(user), seed=self.seed_generator) >= self.id_dropout
            user = ops.where(kept, user, UNKNOWN_ROW)
        person = self.id_embedding(user)
        for column, embedding in enumerate(self.profile_embeddings):
            person = person + embedding(profile[:, column])
        mask = ops.cast(history_mask, history.dtype)
        mean = ops.sum(history * mask[:, :, None], axis=1) / ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1.0)
        pooled, weights = self.attention(person + mean, history, history_mask)
        additive = person + self.mean_dense(mean) + self.pooled_dense(pooled)
        hidden = self.dropout(self.hidden(ops.concatenate([person, mean, pooled], axis=-1)), training=training)
        queries = unit_length(additive + self.output_dense(hidden))
        return queries, {"attention": weights, "history": pooled}
