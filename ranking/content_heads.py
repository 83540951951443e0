"""Further tasks of the ranker's content tokens: to tell an item's categories, and how it was received."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.tables import ContentTable


@dataclasses.dataclass(frozen=True)
class ItemLabels:
    """Weak labels of items.

    Shapes: `categories` int [N + 1, T] codes, padded with 0; `sentiment` f32 [N + 1], in deviations from the mean;
    `known` bool [N + 1], whether the sentiment is.
    """

    categories: np.ndarray
    sentiment: np.ndarray
    known: np.ndarray


class ContentHeads(keras.layers.Layer):
    """Category and sentiment of items, off the tokens of their content; in training alone.

        x = tokens of the content modalities, joined;  category_loss = mean_i sum_c softplus(l_ic) - y_ic l_ic over items
        with a category, l = x C + c;  sentiment_loss = mean_i (x s + b - sentiment_i)^2 over items of known sentiment

    Args:
        spec: `categories` is the number of codes, 0 included. config: D.

    Shapes: `call(tokens [U, M, D], items int [U]) -> (category loss, sentiment loss)`, two scalars; row 0 counts for
    nothing.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, tags: int = 8, **kwargs):
        super().__init__(**kwargs)
        rows = spec.schema.item_rows
        # The behaviour of an item's users is no content, and would give its sentiment away.
        self.places = [place for place, name in enumerate(spec.modalities) if name != "behaviour"]
        width = max(1, len(self.places)) * config.token_width
        self.category = keras.layers.Dense(max(1, spec.categories - 1), kernel_initializer="zeros", name="category")
        self.sentiment = keras.layers.Dense(1, kernel_initializer="zeros", name="sentiment")
        for dense in (self.category, self.sentiment):
            dense.build((None, width))
        self.codes = ContentTable(rows, tags, "int32", name="codes")
        self.received = ContentTable(rows, 2, "float32", name="received")
        self.built = True

    def assign(self, labels: ItemLabels) -> None:
        """Fills the tables of labels."""
        self.codes.table.assign(np.asarray(labels.categories)[:, : self.codes.table.shape[1]])
        self.received.table.assign(np.stack([labels.sentiment, labels.known], axis=1))

    def call(self, tokens, items):
        if not self.places:
            return ops.zeros(()), ops.zeros(())
        x = ops.concatenate([tokens[:, place] for place in self.places], axis=-1)
        codes = ops.cast(self.codes(items), "int32")
        logits = self.category(x)
        hot = ops.max(ops.one_hot(codes, logits.shape[-1] + 1, dtype="float32"), axis=1)[:, 1:]
        per_item = ops.sum(ops.softplus(logits) - hot * logits, axis=-1)
        told = ops.cast(ops.any(codes > 0, axis=-1), "float32")
        sentiment, known = (self.received(items)[:, place] for place in (0, 1))
        known = known * ops.cast(items > 0, "float32")
        wrong = ops.square(self.sentiment(x)[:, 0] - sentiment)
        mean = lambda values, mask: ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0)  # noqa: E731
        return mean(per_item, told), mean(wrong, known)
