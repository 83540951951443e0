"""The `retrieval` model of a release: ids in, ids out, one graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from serving.export.retrieval_parts import RetrievalParts
from serving.graphs.request_history import without_gone
from serving.graphs.request_words import no_words
from serving.index.index import LOWEST
from serving.saved_model import write_saved_model

SIGNATURE, SIMILAR = "serving_default", "similar"


class RetrievalModule(RetrievalParts):
    """`RetrievalParts` as one function from a request to its k best items, and one from an embedding to its neighbours."""

    def __init__(self, *parts: Any, **options: Any):
        super().__init__(*parts, **options)
        self.retrieve = self._retrieve_signature()

    def _retrieve_signature(self) -> Callable:
        """`serving_default`.

        Shapes: user_id string [B]; recent_item_ids string [B, H], most recent first, "" = none; exclude_item_ids string
        [B, E], "" = none; k int32 scalar; profile string [B, W], each "column=word", may be left out -> {"item_ids": string
        [B, k], "scores": f32 [B, k], "query": f32 [B, D]}, best first; where fewer items are left, "" and the lowest float.
        A score is the dot product of the query and an item's embedding, so that a caller can place items beside these that
        are younger than the release.
        """

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec((None,), tf.string, "user_id"),
                tf.TensorSpec((None, None), tf.string, "recent_item_ids"),
                tf.TensorSpec((None, None), tf.string, "exclude_item_ids"),
                tf.TensorSpec((), tf.int32, "k"),
                tf.TensorSpec((None, None), tf.string, "profile"),
            ],
        )
        def retrieve(user_id, recent_item_ids, exclude_item_ids, k, profile=no_words()):  # noqa: B008
            user, recent = self.users.rows(user_id), self.items.rows(recent_item_ids)
            queries = self.queries(user, recent, self.said_profile(user, profile))
            hidden = self.hidden_rows(user, recent, self.items.rows(exclude_item_ids))
            rows, scores = self.index.search(queries, k, hidden)
            return {"item_ids": self.items.ids(rows), "scores": scores, "query": queries}

        return retrieve

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec((None, None), tf.float32, "embedding"),
            tf.TensorSpec((None, None), tf.string, "exclude_item_ids"),
            tf.TensorSpec((), tf.int32, "k"),
        ],
    )
    def similar(self, embedding, exclude_item_ids, k):
        """`similar`: what is near an item that has no row, by its embedding from `item_encoder`.

        (What is near an item of the catalogue, `serving_default` says of a stranger whose one recent item it is.) Of an
        ensemble, each half is brought to unit length and weighed as in a query.

        Shapes: embedding f32 [B, D]; the others and the answer as in `serving_default`. An embedding of zeros, of which
        nothing is known, finds nothing.
        """
        embedding = tf.ensure_shape(embedding, (None, self.index.width))
        queries = embedding
        if self.linear_history is not None:
            own = self.index.width - self.linear_width
            halves = zip(tf.unstack(self.mixture), (embedding[:, :own], embedding[:, own:]), strict=True)
            queries = tf.concat([weight * tf.math.l2_normalize(half, axis=1) for weight, half in halves], axis=1)
        hidden = without_gone(self.items.rows(exclude_item_ids), tf.convert_to_tensor(self.gone))
        rows, scores = self.index.search(queries, k, hidden)
        found = tf.reduce_any(embedding != 0.0, axis=1)[:, None]
        item_ids, scores = self.items.ids(tf.where(found, rows, 0)), tf.where(found, scores, LOWEST)
        return {"item_ids": item_ids, "scores": scores, "query": queries}

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `retrieval/<version>`."""
        write_saved_model(self, folder, {SIGNATURE: self.retrieve, SIMILAR: self.similar})
