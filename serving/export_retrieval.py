"""The `retrieval` model of a release: ids in, ids out, one graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.index import LOWEST, CandidateIndex
from serving.keras_weights import KerasWeights
from serving.request_history import ServingTables, choose_history, choose_whole_history, users_rows
from serving.saved_model import write_saved_model
from serving.vocabulary_tables import VocabularyTables

SIGNATURE, SIMILAR = "serving_default", "similar"


class RetrievalModule(tf.Module):
    """Vocabulary, user tables, user tower and index as one function from a request to its k best items.

    A request without known recent items gets the history stored for its user; an unknown user without history gets
    what the tower thinks of nobody in particular. Never offered: the request's recent items, its excluded items, and
    the items that a known user had seen when the release was made.

    Args:
        tables: see `ServingTables`.
        user_tower: built; `user_tower(user [B], profile [B, P], history [B, L, D], history_mask [B, L])` returns
            (queries [B, D], anything).
        index: exact or ScaNN.
        linear_history: f32 [N + 1, D_2] where an ensemble is served (`towers.ensemble`): its user tower also takes the
            sum of these over a whole history, and reads its recent items from the first columns of the index.

    Raises:
        ValueError: the vocabulary, the user tables or the index are of different sizes.
    """

    def __init__(
        self, tables: ServingTables, user_tower: Any, index: CandidateIndex, linear_history: np.ndarray | None = None
    ):
        super().__init__(name="retrieval")
        self.users = VocabularyTables(tables.user_ids, "users")
        self.items = VocabularyTables(tables.item_ids, "items")
        sizes = {"user_ids": self.users.size, "profile": len(tables.profile)}
        if len(set(sizes.values())) != 1 or self.items.size != index.item_rows:
            raise ValueError(
                f"tables, index: sizes must agree, received {sizes}, item_ids {self.items.size}, "
                f"index {index.item_rows}; take all from one run"
            )
        self.profile = tf.Variable(tables.profile, dtype=tf.int32, trainable=False, name="user_profile")
        self.history = tf.Variable(tables.history, dtype=tf.int32, trainable=False, name="user_history")
        self.seen_offsets = tf.Variable(tables.seen_offsets, dtype=tf.int64, trainable=False, name="seen_offsets")
        self.seen_rows = tf.Variable(tables.seen_rows, dtype=tf.int32, trainable=False, name="seen_rows")
        self.user_tower = KerasWeights(user_tower, "user_tower")
        self.index = index
        self.linear_history = None
        if linear_history is not None:
            if tables.chosen is None or len(linear_history) != index.item_rows:
                raise ValueError(
                    f"linear_history: needs tables.chosen and one line an item row, received {len(linear_history)} lines "
                    f"for {index.item_rows} rows; take all from one run"
                )
            self.mixture = tuple(user_tower.mixture)
            offsets, rows = tables.chosen
            self.chosen_offsets = tf.Variable(offsets, dtype=tf.int64, trainable=False, name="chosen_offsets")
            self.chosen_rows = tf.Variable(rows, dtype=tf.int32, trainable=False, name="chosen_rows")
            self.linear_history = tf.Variable(linear_history, dtype=tf.float32, trainable=False, name="linear_history")

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec((None,), tf.string, "user_id"),
            tf.TensorSpec((None, None), tf.string, "recent_item_ids"),
            tf.TensorSpec((None, None), tf.string, "exclude_item_ids"),
            tf.TensorSpec((), tf.int32, "k"),
        ],
    )
    def retrieve(self, user_id, recent_item_ids, exclude_item_ids, k):
        """`serving_default`.

        Shapes: user_id string [B]; recent_item_ids string [B, H], most recent first, "" = none; exclude_item_ids string
        [B, E], "" = none; k int32 scalar -> {"item_ids": string [B, k], "scores": f32 [B, k], "query": f32 [B, D]}, best
        first; where fewer items are left, "" and the lowest float. A score is the dot product of the query and an
        item's embedding, so that a caller can place items beside these that are younger than the release.
        """
        user, recent = self.users.rows(user_id), self.items.rows(recent_item_ids)
        history = choose_history(recent, tf.gather(self.history, user))
        profile = tf.gather(self.profile, user)
        queries = self._queries(user, profile, history, recent)
        seen = users_rows(self.seen_offsets, self.seen_rows, user)
        excluded = tf.concat([self.items.rows(exclude_item_ids), recent, seen], axis=1)
        rows, scores = self.index.search(queries, k, excluded)
        return {"item_ids": self.items.ids(rows), "scores": scores, "query": queries}

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
            own = self.index.width - self.linear_history.shape[1]
            halves = zip(self.mixture, (embedding[:, :own], embedding[:, own:]), strict=True)
            queries = tf.concat([weight * tf.math.l2_normalize(half, axis=1) for weight, half in halves], axis=1)
        rows, scores = self.index.search(queries, k, self.items.rows(exclude_item_ids))
        found = tf.reduce_any(embedding != 0.0, axis=1)[:, None]
        item_ids, scores = self.items.ids(tf.where(found, rows, 0)), tf.where(found, scores, LOWEST)
        return {"item_ids": item_ids, "scores": scores, "query": queries}

    def _queries(self, user, profile, history, recent):
        vectors, mask = self.index.embeddings(history), history > 0
        if self.linear_history is None:
            return self.user_tower(user, profile, vectors, mask)[0]
        whole = choose_whole_history(recent, users_rows(self.chosen_offsets, self.chosen_rows, user))
        sums = tf.reduce_sum(tf.gather(self.linear_history, whole), axis=1)
        own = vectors[:, :, : self.index.width - self.linear_history.shape[1]]
        return self.user_tower(user, profile, own, mask, sums)[0]

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `retrieval/<version>`."""
        write_saved_model(self, folder, {SIGNATURE: self.retrieve, SIMILAR: self.similar})
