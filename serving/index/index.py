"""The candidate index: the one protocol that every index follows, and the exact index of core TensorFlow operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from ranking.array_ops import numpy_ops
from ranking.stored_rows import Precision, restore_rows, store_rows, take_rows
from serving.index.stored_scores import score_all
from serving.saved_model import read_variables, write_saved_model

LOWEST = float(np.finfo(np.float32).min)
"""The score of a place that no item fills. Finite, so that it survives JSON and arithmetic."""

MAXIMUM_K = 1 << 20
"""The most candidates one request may ask for; bounds what a hostile request can allocate."""

SEARCH = "search"
"""Name of the signature of a saved index."""

SEARCH_INPUTS = (
    tf.TensorSpec((None, None), tf.float32, "queries"),
    tf.TensorSpec((), tf.int32, "k"),
    tf.TensorSpec((None, None), tf.int32, "excluded"),
)


class CandidateIndex(Protocol):
    """What retrieval needs of an index. `k` and the excluded rows are inputs of a request, never constants.

    Shapes: queries f32 [B, D]; k int32 scalar; excluded int32 [B, E] rows, 0 = none, E >= 0 -> rows int32 [B, k], best
    first, and scores f32 [B, k], dot products. Row 0 is never found; where fewer than k items are left, places are
    filled with row 0 and score `LOWEST`.
    """

    kind: str
    item_rows: int
    width: int
    compiled: Compiled

    def search(self, queries: Any, k: Any, excluded: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best rows a query and their scores."""

    def embeddings(self, rows: Any) -> tf.Tensor:
        """Item vectors of rows of any shape, [..., D]; zeros for row 0."""

    def save(self, folder: str | Path) -> None:
        """Write a SavedModel with the signature `search` into a new folder."""


class Compiled:
    """A compiled function that a `tf.Module` may hold without making it part of a SavedModel.

    A tracked `tf.function` is saved in whatever order it was first traced, which would let the bytes of a saved index
    depend on what was done with it before.
    """

    def __init__(self, function: Callable, signature: Sequence[tf.TensorSpec] = SEARCH_INPUTS):
        self.function = tf.function(function, input_signature=signature, autograph=False)

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def checked_table(item_embeddings: np.ndarray) -> np.ndarray:
    """The item table as float32 [N + 1, D], without a copy where it already is.

    Raises:
        ValueError: not a matrix with row 0 and at least one item, or a value that is not finite.
    """
    table = np.asarray(item_embeddings, np.float32)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 1:
        raise ValueError(
            f"item_embeddings: need [N + 1, D] with row 0 reserved and N, D >= 1, received shape {table.shape}"
        )
    for start in range(0, len(table), 65_536):
        if not np.isfinite(table[start : start + 65_536]).all():
            raise ValueError(
                f"item_embeddings: values must be finite, received NaN or infinity in rows from {start} on; retrain"
            )
    return table


def checked_k(k: tf.Tensor) -> tf.Tensor:
    """The same k, refused in the graph when negative or above `MAXIMUM_K` (InvalidArgumentError)."""
    message = f"k: must lie between 0 and {MAXIMUM_K}"
    with tf.control_dependencies([tf.debugging.Assert((k >= 0) & (k <= MAXIMUM_K), [message, k])]):
        return tf.identity(k)


def keep_best(rows: tf.Tensor, scores: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best of the given candidates; row 0 and `LOWEST` where there are not k. Equal scores keep their order.

    Shapes: rows [B, W], scores [B, W] with `LOWEST` on what must not be found -> [B, k], [B, k].
    """
    best, places = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    kept = tf.where(best > LOWEST, tf.gather(rows, places, batch_dims=1), 0)
    missing = [[0, 0], [0, tf.maximum(k - tf.shape(best)[1], 0)]]
    return tf.pad(kept, missing), tf.pad(best, missing, constant_values=LOWEST)


def known_rows(rows: tf.Tensor, item_rows: int | tf.Tensor) -> tf.Tensor:
    """The same rows, 0 where a row is outside the table."""
    return tf.where((rows > 0) & (rows < item_rows), rows, 0)


def exact_search(table: tf.Tensor, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best of all items by one matmul; equal scores come in the order of their rows.

    Memory is B × (N + 1) × 4 bytes.

    Shapes: table [N + 1, D] in any form of `ranking.stored_rows`, queries f32 [B, D], k checked, excluded int32 [B, E] in
    0..N -> see `CandidateIndex`.
    """
    batch, item_rows = tf.shape(queries)[0], tf.shape(table)[0]
    scores = score_all(table, queries)
    # Row 0 joins the excluded ones: it must never be found, and E = 0 needs no branch.
    excluded = tf.pad(excluded, [[0, 0], [0, 1]])
    places = tf.stack([tf.broadcast_to(tf.range(batch)[:, None], tf.shape(excluded)), excluded], axis=-1)
    scores = tf.tensor_scatter_nd_update(scores, places, tf.fill(tf.shape(excluded), LOWEST))
    best, rows = tf.math.top_k(scores, tf.minimum(k, item_rows))
    rows = tf.where(best > LOWEST, rows, 0)
    missing = [[0, 0], [0, tf.maximum(k - item_rows, 0)]]
    return tf.pad(rows, missing), tf.pad(best, missing, constant_values=LOWEST)


class ExactIndex(tf.Module):
    """Every item scored by one matmul: core TensorFlow operations only, so that any TF Serving image runs it.

        rows = top_k(q E^T with excluded columns at LOWEST)

    Memory of a search is B × (N + 1) × 4 bytes; equal scores come in the order of their rows.

    Args:
        item_embeddings: f32 [N + 1, D], row 0 ignored.
        precision: how they are kept, see `ranking.stored_rows`; less than "float32" is smaller, and two to five times
            slower to search.

    Raises:
        ValueError: see `checked_table` and `store_rows`.

    Example:
        >>> index = ExactIndex(np.array([[0, 0], [1, 0], [0, 1]], np.float32))
        >>> rows, scores = index.search([[1.0, 0.1]], 3, [[2]])
        >>> rows.numpy().tolist(), scores.numpy()[0, 0].tolist()
        ([[1, 0, 0]], 1.0)
    """

    kind = "exact"

    def __init__(self, item_embeddings: np.ndarray, precision: Precision = "float32"):
        super().__init__(name="exact_index")
        table = checked_table(item_embeddings)
        self.item_rows, self.width = table.shape
        stored = np.array(store_rows(table, precision))
        stored[0] = 0
        # A graph that does not know how many rows there are is that of every catalogue. Smaller forms are restored a block
        # of rows at a time, and need to know.
        rows = None if precision == "float32" else self.item_rows
        shape = tf.TensorShape((rows, stored.shape[1]))
        self.item_embeddings = tf.Variable(stored, trainable=False, shape=shape, name="index_item_embeddings")
        self.compiled = Compiled(self._search)

    def search(self, queries, k, excluded):
        """See `CandidateIndex`."""
        return (self._search if tf.inside_function() else self.compiled)(queries, k, excluded)

    def _search(self, queries, k, excluded):
        excluded = known_rows(excluded, tf.shape(self.item_embeddings)[0])
        return exact_search(self.item_embeddings, queries, checked_k(k), excluded)

    def embeddings(self, rows):
        """See `CandidateIndex`."""
        # Of the tensor, not of the variable: search reads it, and to read what is also gathered from copies it whole.
        return take_rows(tf.convert_to_tensor(self.item_embeddings), rows)

    def save(self, folder: str | Path) -> None:
        """See `CandidateIndex`."""
        save_index(self, folder)

    @classmethod
    def restore(cls, folder: str | Path) -> ExactIndex:
        """The index that `save` wrote."""
        return cls.from_variables(read_variables(folder))

    @classmethod
    def from_variables(cls, values: Mapping[str, np.ndarray]) -> ExactIndex:
        """The index of its variables' values."""
        return cls(restore_rows(values["item_embeddings"], ops=numpy_ops))


def save_index(index: Any, folder: str | Path, more: Mapping[str, Callable] | None = None) -> None:
    """Writes an index as a SavedModel whose `search` signature maps queries, k, excluded to rows, scores.

    Args:
        more: other signatures by name.
    """

    @tf.function(input_signature=SEARCH_INPUTS, autograph=False)
    def search(queries, k, excluded):
        rows, scores = index.search(queries, k, excluded)
        return {"rows": rows, "scores": scores}

    write_saved_model(index, folder, {SEARCH: search, **(more or {})})
