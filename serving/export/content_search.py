"""The `content_search` model of a release: the vector of a picture or of a sound in, the items that look or sound like it
out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ranking.stored_rows import Precision
from serving.graphs.content_axes import fit_content_axes
from serving.graphs.vocabulary_tables import VocabularyTables
from serving.index.index import LOWEST, ExactIndex
from serving.saved_model import write_saved_model

SEARCHABLE = ("image", "audio")
"""What people search by: one signature of that name each."""


class ContentSearchModule(tf.Module):
    """Items by what they look like and by what they sound like, whatever people did with them.

    The item tower's embedding says what taste an item meets, and much of that is not in its picture: of the demo shop's
    covers cut to their middle 80 %, half have their item among the first ten by it, and all by the picture's own vector; of
    clips cut to a half, 28 % and all (`benchmarks/media_search.py`).

    Args:
        item_ids: vocabulary file.
        tables: of each modality its vectors [N + 1, F_m], and which rows have one, bool [N + 1].
        precision: how the tables are kept.

    Raises:
        ValueError: a table of another size than the vocabulary.

    Attributes:
        parts: of each modality that can be searched by: those with two different vectors at least.
    """

    def __init__(
        self, item_ids: Path, tables: Mapping[str, tuple[np.ndarray, np.ndarray]], precision: Precision = "float32"
    ):
        super().__init__(name="content_search")
        self.items = VocabularyTables(item_ids, "items")
        self.parts: dict[str, _Part] = {}
        for name, (table, present) in tables.items():
            if len(table) != self.items.size:
                raise ValueError(
                    f"tables[{name!r}]: must have {self.items.size} rows as item_ids, received {len(table)}; take both "
                    "from one run"
                )
            part = _make_part(name, table, present, precision)
            if part is not None:
                self.parts[name] = part

    @property
    def widths(self) -> dict[str, int]:
        """F_m of the modalities that can be searched by."""
        return {name: int(part.mean.shape[0]) for name, part in self.parts.items()}

    def _search(self, name: str) -> Callable:
        """The signature of a modality.

        Shapes: vector f32 [B, F_m], as `item_encoder` answers it; exclude_item_ids string [B, E], "" = none; k int32 scalar
        -> {"item_ids": string [B, k], "scores": f32 [B, k]}: cosines, best first; where fewer items are left, "" and the
        lowest float; "query": f32 [B, E], where an item of that content would lie. A vector of zeros, which is what cannot
        be decoded, finds nothing and lies nowhere, at zeros.
        """
        part = self.parts[name]

        def search(vector, exclude_item_ids, k):
            asked = tf.reduce_any(vector != 0.0, axis=1)
            query = tf.math.l2_normalize(tf.matmul(vector - part.mean, part.axes), axis=1)
            query = tf.where(asked[:, None], query, 0.0)
            excluded = tf.gather(part.places, self.items.rows(exclude_item_ids))
            places, scores = part.index.search(query, k, excluded)
            found = asked[:, None] & (places > 0)
            rows = tf.where(found, tf.gather(part.rows, places), 0)
            return {"item_ids": self.items.ids(rows), "scores": tf.where(found, scores, LOWEST), "query": query}

        signature = (
            tf.TensorSpec((None, self.widths[name]), tf.float32, "vector"),
            tf.TensorSpec((None, None), tf.string, "exclude_item_ids"),
            tf.TensorSpec((), tf.int32, "k"),
        )
        return tf.function(search, input_signature=signature, autograph=False)

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `content_search/<version>`."""
        functions = {name: self._search(name) for name in self.parts}
        write_saved_model(self, folder, {"serving_default": next(iter(functions.values())), **functions})


class _Part(tf.Module):
    """One modality: its axes, an index of the items that have it, and which rows those are."""

    def __init__(self, name: str, mean: np.ndarray, axes: np.ndarray, index: ExactIndex, rows: np.ndarray, size: int):
        super().__init__(name=name)
        self.index = index
        self.mean = tf.Variable(mean, trainable=False, name="mean")
        self.axes = tf.Variable(axes, trainable=False, name="axes")
        self.rows = tf.Variable(rows.astype(np.int32), trainable=False, name="rows")
        places = np.zeros(size, np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        places[0] = 0
        self.places = tf.Variable(places, trainable=False, name="places")


def _make_part(name: str, table: np.ndarray, present: np.ndarray, precision: Precision) -> _Part | None:
    axes = fit_content_axes(table, present)
    if axes is None:
        return None
    rows = np.concatenate([[0], np.flatnonzero(present)])
    points = np.concatenate([axes.place(table[rows[start : start + 65_536]]) for start in range(0, len(rows), 65_536)])
    return _Part(name, axes.mean, axes.axes, ExactIndex(points, precision), rows, len(table))


def content_search_requests(widths: Mapping[str, int], sizes: tuple[int, ...], k: int) -> dict[str, list[dict[str, Any]]]:
    """Warm-up requests of every signature."""
    return {
        name: [
            {
                "vector": np.ones((size, width), np.float32),
                "exclude_item_ids": np.empty((size, 0), object),
                "k": np.array(k, np.int32),
            }
            for size in sizes
        ]
        for name, width in widths.items()
    }
