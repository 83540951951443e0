"""The `retrieval` model of a release: ids in, ids out, one graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from serving.index import CandidateIndex
from serving.keras_weights import KerasWeights
from serving.request_history import ServingTables, choose_history
from serving.saved_model import write_saved_model
from serving.vocabulary_tables import VocabularyTables

SIGNATURE = "serving_default"


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

    Raises:
        ValueError: the vocabulary, the user tables or the index are of different sizes.
    """

    def __init__(self, tables: ServingTables, user_tower: Any, index: CandidateIndex):
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
        [B, E], "" = none; k int32 scalar -> {"item_ids": string [B, k], "scores": f32 [B, k]}, best first; where fewer
        items are left, "" and the lowest float.
        """
        user, recent = self.users.rows(user_id), self.items.rows(recent_item_ids)
        history = choose_history(recent, tf.gather(self.history, user))
        profile = tf.gather(self.profile, user)
        queries = self.user_tower(user, profile, self.index.embeddings(history), history > 0)[0]
        excluded = tf.concat([self.items.rows(exclude_item_ids), recent, self._seen(user)], axis=1)
        rows, scores = self.index.search(queries, k, excluded)
        return {"item_ids": self.items.ids(rows), "scores": scores}

    def _seen(self, user):
        """Seen rows of each user, [B, most seen in the batch], filled with 0."""
        start = tf.gather(self.seen_offsets, user)
        count = tf.gather(self.seen_offsets, user + 1) - start
        places = tf.ragged.range(start, start + count)
        return places.with_values(tf.gather(self.seen_rows, places.values)).to_tensor(0)

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `retrieval/<version>`."""
        write_saved_model(self, folder, {SIGNATURE: self.retrieve})
