"""What retrieval is made of: vocabulary, user tables, user tower and index, from rows of a request to its best rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ranking.stored_rows import Precision, store_rows, take_rows
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.request_history import (
    ServingTables,
    choose_history,
    choose_whole_history,
    table_variable,
    users_rows,
    without_gone,
)
from serving.graphs.request_words import frozen, word_codes
from serving.graphs.vocabulary_tables import VocabularyTables
from serving.index.index import CandidateIndex

CORE_INDEXES = ("exact", "partitioned")
"""Kinds of index that are made of core operations and variables."""


class RetrievalParts(tf.Module):
    """The variables of retrieval, held once by each model that retrieves, and what is done with them.

    A request without known recent items gets the history stored for its user; an unknown user without history gets
    what the tower thinks of nobody in particular. What a request says of its user's profile counts before the profile
    that is stored, column by column. Never found: the request's recent items, its excluded items, and
    the items that a known user had seen when the release was made. Nor are items found that are gone from the catalogue.

    Args:
        tables: see `ServingTables`.
        user_tower: built; `user_tower(user [B], profile [B, P], history [B, L, D], history_mask [B, L])` returns
            (queries [B, D], anything).
        index: any `CandidateIndex`.
        linear_history: f32 [N + 1, D_2] where an ensemble is served (`towers.ensemble`): its user tower also takes the
            sum of these over a whole history, and reads its recent items from the first columns of the index.
        name: of the module.
        precision: how tables and weights are kept, see `ranking.stored_rows`; the index has its own. The tower's table of
            users is in half precision where this is "int8".

    Raises:
        ValueError: the vocabulary, the user tables or the index are of different sizes.
    """

    def __init__(
        self,
        tables: ServingTables,
        user_tower: Any,
        index: CandidateIndex,
        linear_history: np.ndarray | None = None,
        name: str = "retrieval",
        precision: Precision = "float32",
    ):
        super().__init__(name=name)
        self.users = VocabularyTables(tables.user_ids, "users")
        self.items = VocabularyTables(tables.item_ids, "items")
        sizes = {"user_ids": self.users.size, "profile": len(tables.profile)}
        if len(set(sizes.values())) != 1 or self.items.size != index.item_rows:
            raise ValueError(
                f"tables, index: sizes must agree, received {sizes}, item_ids {self.items.size}, "
                f"index {index.item_rows}; take all from one run"
            )
        self.profile = table_variable(tables.profile, tf.int32, "user_profile")
        words = frozen(tables.profile_words)
        self._profile_words = lambda: words  # held by a function, since a module would track them
        self.history = table_variable(tables.history, tf.int32, "user_history")
        longest = tables.history.shape[1]
        self.tower_steps = min(tables.tower_steps or longest, longest)
        self.seen_offsets = table_variable(tables.seen_offsets, tf.int64, "seen_offsets")
        self.seen_rows = table_variable(tables.seen_rows, tf.int32, "seen_rows")
        self.gone = table_variable(tables.gone, tf.int32, "gone_rows")
        half: Precision = "float32" if precision == "float32" else "float16"
        self.user_tower = KerasWeights(user_tower, "user_tower", half, _user_tables(user_tower))
        self.index = index
        self.linear_history = None
        if linear_history is not None:
            if tables.chosen is None or len(linear_history) != index.item_rows:
                raise ValueError(
                    f"linear_history: needs tables.chosen and one line an item row, received {len(linear_history)} lines "
                    f"for {index.item_rows} rows; take all from one run"
                )
            self.mixture = tf.Variable(user_tower.mixture, dtype=tf.float32, trainable=False, name="mixture")
            offsets, rows = tables.chosen
            self.chosen_offsets = table_variable(offsets, tf.int64, "chosen_offsets")
            self.chosen_rows = table_variable(rows, tf.int32, "chosen_rows")
            kept = store_rows(linear_history, precision)
            self.linear_history = table_variable(kept, kept.dtype, "linear_history")
            self.linear_width = linear_history.shape[1]

    def graph_basis(self) -> dict[str, Any] | None:
        """See `serving.export.graphs_again.Reusable`; ScaNN's graph holds what it was trained to."""
        if self.index.kind not in CORE_INDEXES:
            return None
        less = {"tower_steps": self.tower_steps} if self.tower_steps < self.history.shape[1] else {}
        return {"index": self.index.kind, "linear": self.linear_history is not None, "words": self._profile_words(), **less}

    def chosen_history(self, user: tf.Tensor, recent: tf.Tensor) -> tf.Tensor:
        """The history that counts, int32 [B, L]: see `serving.graphs.request_history.choose_history`."""
        return choose_history(recent, tf.gather(self.history, user))

    def said_profile(self, user: tf.Tensor, words: tf.Tensor) -> tf.Tensor | None:
        """What a request says of its users, int32 [B, P], 0 = nothing; words string [B, W] or of no line. None where a
        release knows no words."""
        return word_codes(words, self._profile_words(), tf.size(user))

    def queries(self, user: tf.Tensor, recent: tf.Tensor, said: tf.Tensor | None) -> tf.Tensor:
        """Query vectors f32 [B, D] of user rows int32 [B], recent item rows int32 [B, H] and their `said_profile`."""
        history, stored = self.chosen_history(user, recent), tf.gather(self.profile, user)
        profile = stored if said is None else tf.where(said > 0, said, stored)
        if self.tower_steps < self.history.shape[1]:
            history = history[:, : self.tower_steps]
        vectors, mask = self.index.embeddings(history), history > 0
        if self.linear_history is None:
            return self.user_tower(user, profile, vectors, mask)[0]
        whole = choose_whole_history(recent, users_rows(self.chosen_offsets, self.chosen_rows, user))
        # Of the tensor, not of the variable: to read one that is also gathered from copies it whole.
        sums = tf.reduce_sum(take_rows(tf.convert_to_tensor(self.linear_history), whole), axis=1)
        own = vectors[:, :, : self.index.width - self.linear_width]
        return self.user_tower(user, profile, own, mask, sums, tf.convert_to_tensor(self.mixture))[0]

    def hidden_rows(self, user: tf.Tensor, recent: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        """Rows that must not be found, int32 [B, any]: excluded, recent and gone ones, and what the user had seen."""
        seen = users_rows(self.seen_offsets, self.seen_rows, user)
        return tf.concat([without_gone(excluded, tf.convert_to_tensor(self.gone)), recent, seen], axis=1)


def _user_tables(user_tower: Any) -> list:
    """The table of users in a tower, read by row and cast afterwards; none in a tower of another make."""
    embedding = getattr(getattr(user_tower, "user_tower", user_tower), "id_embedding", None)
    return [] if embedding is None else [embedding.embeddings]
