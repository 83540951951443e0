"""What has changed since an index was built: added items searched exactly beside it, deleted ones never returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.index.index import (
    CandidateIndex,
    Compiled,
    ExactIndex,
    checked_k,
    exact_search,
    keep_best,
    known_rows,
    save_index,
)
from serving.index.partitioned_index import PartitionedIndex
from serving.saved_model import read_variables

ADD, DELETE = "add", "delete"
"""Names of the signatures that change a saved index."""

BASES: dict[str, type[ExactIndex] | type[PartitionedIndex]] = {
    "item_embeddings": ExactIndex,
    "tensors/codes": PartitionedIndex,
}
"""A variable that only one kind of index has, by which a saved one is told."""


class DeltaIndex(tf.Module):
    """An index and its changes, searched as one: what a rebuild would answer, without a rebuild.

        answer = the k best of  base(q, k, excluded and deleted)  and  the exact k best of the added items

    Changes are variables of fixed size, so that a graph stays as it is while they fill: `add` gives the next free row
    above those of the base, `delete` bars a row for good. A changed vector is a deleted row and an added one. They can be
    called here or in an exported index, whose signatures `add` and `delete` write into the server's own variables: at once
    for the next search, for that one replica, until it loads a version again. `save` keeps them, so that publishing the
    same base with its changes is a matter of copying files. Call them from one writer at a time; searches may run
    meanwhile, and see a change whole or not at all.

    This is an index of its own, by rows. Behind the gateway the same holds by id, for all replicas and over restarts: added
    items are searched exactly and merged, deleted ones excluded (`serving.catalogue.live_items`, `serving.client.added_items`).

    An added item costs a search what an item of exact search costs, a deleted one what an excluded row costs.

    Args:
        base: exact or partitioned.
        capacity: items that may be added until the next rebuild, and rows that may be deleted.

    Raises:
        ValueError: no room at all, or a base of another kind.

    Example:
        >>> index = DeltaIndex(ExactIndex(np.array([[0, 0], [1, 0], [0, 1]], np.float32)), capacity=4)
        >>> index.add([[0.9, 0.9]]).tolist(), index.search([[1.0, 0.1]], 2, [[]])[0].numpy().tolist()
        ([3], [[1, 3]])
        >>> index.delete([1]), index.search([[1.0, 0.1]], 2, [[]])[0].numpy().tolist()
        (1, [[3, 2]])
    """

    kind = "delta"

    def __init__(self, base: CandidateIndex, capacity: int = 1024):
        super().__init__(name="delta_index")
        if capacity < 1 or base.kind not in {kind.kind for kind in BASES.values()}:
            raise ValueError(
                f"capacity must be positive and base exact or partitioned, received {capacity} and {base.kind!r}"
            )
        self.base, self.capacity, self.width = base, capacity, base.width
        self.item_rows = base.item_rows + capacity
        # Row 0 stays empty, as in every item table.
        self.added = tf.Variable(tf.zeros((capacity + 1, base.width)), trainable=False, name="index_added")
        self.added_count = tf.Variable(0, trainable=False, name="index_added_count")
        self.deleted = tf.Variable(tf.zeros(capacity, tf.int32), trainable=False, name="index_deleted")
        self.deleted_count = tf.Variable(0, trainable=False, name="index_deleted_count")
        self.compiled = Compiled(self._search)
        self._adding = Compiled(self._add, (tf.TensorSpec((None, base.width), tf.float32, "embeddings"),))
        self._deleting = Compiled(self._delete, (tf.TensorSpec((None,), tf.int32, "rows"),))

    def add(self, embeddings: Any) -> np.ndarray:
        """Rows of new items, int32 [A], from their vectors f32 [A, D]; found by the next search.

        Raises:
            tf.errors.InvalidArgumentError: no room for all of them, or a value that is not finite; nothing is added.
        """
        return self._adding(np.asarray(embeddings, np.float32)).numpy()

    def delete(self, rows: Any) -> int:
        """Bars rows of the base or of added items, int [R], from every search; how many are barred in all.

        Raises:
            tf.errors.InvalidArgumentError: no room for all of them, or a row that is nobody's; nothing is deleted.
        """
        return int(self._deleting(np.asarray(rows, np.int32)).numpy())

    def _add(self, embeddings):
        begin, count = tf.identity(self.added_count), tf.shape(embeddings)[0]
        finite = tf.reduce_all(tf.math.is_finite(embeddings))
        room = tf.debugging.Assert(
            begin + count <= self.capacity, ["embeddings: no room, rebuild the index; free places:", self.capacity - begin]
        )
        with tf.control_dependencies([room, tf.debugging.Assert(finite, ["embeddings: values must be finite"])]):
            places = begin + 1 + tf.range(count)
        # Counted after they are written, so that no search sees an empty row.
        with tf.control_dependencies([self.added.scatter_nd_update(places[:, None], embeddings)]):
            counted = self.added_count.assign(begin + count, read_value=True)
        with tf.control_dependencies([counted]):
            return places + (self.base.item_rows - 1)

    def _delete(self, rows):
        rows = tf.unique(rows).y
        begin = tf.identity(self.deleted_count)
        known = (rows > 0) & (rows < self.base.item_rows + self.added_count)
        rows = tf.boolean_mask(rows, ~tf.reduce_any(rows[:, None] == self.deleted[None, :begin], axis=1))
        count = tf.size(rows)
        room = tf.debugging.Assert(
            begin + count <= self.capacity, ["rows: no room, rebuild the index; free places:", self.capacity - begin]
        )
        with tf.control_dependencies([room, tf.debugging.Assert(tf.reduce_all(known), ["rows: must be rows of items"])]):
            places = begin + tf.range(count)
        with tf.control_dependencies([self.deleted.scatter_nd_update(places[:, None], rows)]):
            return self.deleted_count.assign(begin + count, read_value=True)

    def search(self, queries, k, excluded):
        """See `CandidateIndex`; rows of added items follow those of the base."""
        return (self._search if tf.inside_function() else self.compiled)(queries, k, excluded)

    def _search(self, queries, k, excluded):
        k, first = checked_k(k), self.base.item_rows
        deleted = self.deleted[: self.deleted_count]
        barred = tf.tile(deleted[None], [tf.shape(queries)[0], 1])
        barred = tf.concat([known_rows(excluded, self.item_rows), barred], axis=1)
        rows, scores = self.base.search(queries, k, barred)
        beside = tf.where(barred >= first, barred - (first - 1), 0)
        added = self.added[: self.added_count + 1]
        new, new_scores = exact_search(added, queries, k, known_rows(beside, tf.shape(added)[0]))
        new = tf.where(new > 0, new + (first - 1), 0)
        return keep_best(tf.concat([rows, new], axis=1), tf.concat([scores, new_scores], axis=1), k)

    def embeddings(self, rows):
        """See `CandidateIndex`; of deleted rows too, since they may stand in a history."""
        first = self.base.item_rows
        new = tf.gather(self.added, tf.clip_by_value(rows - (first - 1), 0, self.capacity))
        return tf.where((rows < first)[..., None], self.base.embeddings(tf.where(rows < first, rows, 0)), new)

    def save(self, folder: str | Path) -> None:
        """See `CandidateIndex`; also with the signatures `add` and `delete`."""

        @tf.function(input_signature=(tf.TensorSpec((None, self.width), tf.float32, "embeddings"),), autograph=False)
        def add(embeddings):
            return {"rows": self._add(embeddings)}

        @tf.function(input_signature=(tf.TensorSpec((None,), tf.int32, "rows"),), autograph=False)
        def delete(rows):
            return {"deleted": self._delete(rows)}

        save_index(self, folder, {ADD: add, DELETE: delete})

    @classmethod
    def restore(cls, folder: str | Path) -> DeltaIndex:
        """The index that `save` wrote, with its changes."""
        values = read_variables(folder)
        base_values = {name.removeprefix("base/"): value for name, value in values.items() if name.startswith("base/")}
        base = next(kind for name, kind in BASES.items() if name in base_values)
        index = cls(base.from_variables(base_values), len(values["deleted"]))
        for name in ("added", "added_count", "deleted", "deleted_count"):
            getattr(index, name).assign(values[name])
        return index
