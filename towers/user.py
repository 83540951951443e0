"""The user tower: who asks, and what they chose recently, in; one query vector out."""

from __future__ import annotations

import keras
from keras import ops

from data.schema import UNKNOWN_ROW, Schema
from towers.config import TowerConfig
from towers.fusion import unit_length
from towers.history import HistoryAttention, HistoryTransformer, gap_buckets
from towers.row_embedding import RowEmbedding

HISTORIES = ("mean", "attention", "transformer", "sum", "none")


@keras.saving.register_keras_serializable("triptych")
class UserTower(keras.layers.Layer):
    """User id + profile + recent items, normalised to a query.

    History steps are the item tower's own embeddings, so they carry id, text, image and audio at once, training updates
    both towers through them, and a server needs nothing but the table of item embeddings. User id row 0 stands for
    every user who was not in training; id dropout trains it. Without user ids there is no table of users, only row 0.

    Formula: with `u = id + profile`, the history's mean m and `p = pool(h)`, `q = unit(u + A m + B p + W_2 gelu(W_1 [u; m;
    p]))`; A and B start as identities, W_2 as 0. `config.history` chooses the pool: `attention` asks by u + m,
    `transformer` reads the events in order, `mean` has none (no p). `sum` is linear, without any of these weights:
    `q = unit(sum_l h_l)`, and `unit(u)` for a user without history. `none` looks at no history: `q = unit(u)`.

    Args:
        schema: sizes; `schema.profile` decides the profile columns (axis P).
        config: widths, history length L, kind of history, dropout rates, seed.

    Shapes: user [B] int32, profile [B, P] int32, history [B, L, D] (most recent first), history_mask [B, L] bool, events
    None (unknown) or {"kind": int32 [B, L] (code of `EVENT_CODES` + 1, 0 unknown), "gap": float32 [B, L] seconds from a
    step to the next more recent one or, for the first, to the request; negative = unknown} -> queries [B, D] of unit
    length, and {"person": u [B, D], "history": p [B, D]}, with attention also {"attention": [B, L]}. Only `transformer`
    looks at events.

    Raises:
        ValueError: an unknown kind of history.
    """

    def __init__(self, schema: Schema, config: TowerConfig, **kwargs):
        super().__init__(**kwargs)
        if config.history not in HISTORIES:
            raise ValueError(f"history: must be among {HISTORIES}, received {config.history!r}")
        width, seed = config.width, config.seed + 100
        normal = keras.initializers.RandomNormal(0.0, 0.05, seed=seed)
        self.use_id, self.history_kind = config.user_id, config.history
        self.id_dropout, self.event_dropout = config.user_id_dropout, config.event_dropout
        self.seed_generator = keras.random.SeedGenerator(seed)
        user_rows = schema.user_rows if self.use_id else 1
        self.id_embedding = RowEmbedding(user_rows, width, embeddings_initializer=normal, name="id")
        self.profile_embeddings = [
            keras.layers.Embedding(cardinality, width, embeddings_initializer=normal, name=f"profile_{name}")
            for name, cardinality in schema.profile.items()
        ]
        self.id_embedding.build((None,))
        for layer in self.profile_embeddings:
            layer.build((None,))
        if config.history == "attention":
            self.attention = HistoryAttention(config.history_length, width, seed=seed + 1, name="attention")
        elif config.history == "transformer":
            self.transformer = HistoryTransformer(
                config.history_length,
                width,
                layers=config.history_layers,
                heads=config.attention_heads,
                block=config.history_block,
                dropout=config.dropout,
                seed=seed + 3,
                name="transformer",
            )
        if config.history not in ("sum", "none"):
            self._add_hidden(width, 2 if config.history == "mean" else 3, config.dropout, seed + 2)
        self.built = True

    def _add_hidden(self, width: int, parts: int, dropout: float, seed: int) -> None:
        self.dropout = keras.layers.Dropout(dropout, seed=seed)
        self.mean_dense = keras.layers.Dense(width, kernel_initializer=keras.initializers.Identity(), name="mean")
        self.mean_dense.build((None, width))
        if parts == 3:
            identity = keras.initializers.Identity()
            self.pooled_dense = keras.layers.Dense(width, kernel_initializer=identity, name="pooled")
            self.pooled_dense.build((None, width))
        self.hidden = keras.layers.Dense(2 * width, activation="gelu", name="hidden")
        self.output_dense = keras.layers.Dense(width, kernel_initializer="zeros", name="output")
        self.hidden.build((None, parts * width))
        self.output_dense.build((None, 2 * width))

    def call(self, user, profile, history, history_mask, training=False, events=None):
        person = self._person(user, profile, training)
        if self.history_kind == "none":
            return unit_length(person), {"person": person, "history": ops.zeros_like(person)}
        mask = ops.cast(history_mask, history.dtype)
        total = ops.sum(history * mask[:, :, None], axis=1)
        number = ops.sum(mask, axis=1, keepdims=True)
        if self.history_kind == "sum":
            return unit_length(ops.where(number > 0, total, person)), {"person": person, "history": total}
        mean = total / ops.maximum(number, 1.0)
        parts, told = [person, mean], {"person": person, "history": mean}
        additive = person + self.mean_dense(mean)
        if self.history_kind == "attention":
            pooled, told["attention"] = self.attention(person + mean, history, history_mask)
        elif self.history_kind == "transformer":
            codes = {} if events is None else self._event_codes(events, training)
            pooled = self.transformer(history, history_mask, **codes, training=training)
        if self.history_kind != "mean":
            parts, told["history"] = [*parts, pooled], pooled
            additive = additive + self.pooled_dense(pooled)
        hidden = self.dropout(self.hidden(ops.concatenate(parts, axis=-1)), training=training)
        return unit_length(additive + self.output_dense(hidden)), told

    def _person(self, user, profile, training):
        if not self.use_id:
            user = ops.zeros_like(user)
        elif training and self.id_dropout:
            kept = keras.random.uniform(ops.shape(user), seed=self.seed_generator) >= self.id_dropout
            user = ops.where(kept, user, UNKNOWN_ROW)
        person = self.id_embedding(user)
        for column, embedding in enumerate(self.profile_embeddings):
            person = person + embedding(profile[:, column])
        return person

    def _event_codes(self, events, training):
        kinds, buckets = events["kind"], gap_buckets(events["gap"])
        if training and self.event_dropout:
            # Whole histories at a time: whoever asks knows the kinds and times of all steps or, as a server, of none.
            draw = keras.random.uniform(ops.shape(kinds)[:1], seed=self.seed_generator)
            kept = (draw >= self.event_dropout)[:, None]
            kinds, buckets = ops.where(kept, kinds, 0), ops.where(kept, buckets, 0)
        return {"kinds": kinds, "buckets": buckets}
