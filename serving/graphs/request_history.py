"""Whose recent items count: those of the request, or those stored when the release was made. Retrieval and ranking
share it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data.schema import UNKNOWN_ROW
from serving.index.allowed_items import distinct_rows


def no_rows() -> np.ndarray:
    """Of no item."""
    return np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class ServingTables:
    """What a release knows of its users and items, beside the models.

    Attributes:
        user_ids, item_ids: vocabulary files of the ingested run.
        profile: int32 [U + 1, P] codes. profile_words: column -> the words behind its codes, in the order of the columns,
            index 0 is ""; by them a request brings a profile of its own. None at all = no request can.
        history: int32 [U + 1, L] item rows, most recent first, filled with 0; row 0 all 0.
        seen_offsets, seen_rows: user u must not be offered `seen_rows[seen_offsets[u]:seen_offsets[u + 1]]`; int64 [U
            + 2] and int32.
        chosen: offsets and rows like those of `seen`, of what a user wanted, each item once: the whole history that a
            linear tower sums. None where none is served.
        tower_steps: how much of a history the user tower reads, where a ranker reads more; 0 = all of it.
        gone: int32 [G], rows of items that are gone from the catalogue: they may stand in histories, and are never found.

    Raises:
        ValueError: at construction, where the number of users or of columns differs between tables, or the unknown user
            has a history.
    """

    user_ids: Path
    item_ids: Path
    profile: np.ndarray
    history: np.ndarray
    seen_offsets: np.ndarray
    seen_rows: np.ndarray
    chosen: tuple[np.ndarray, np.ndarray] | None = None
    profile_words: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    tower_steps: int = 0
    gone: np.ndarray = dataclasses.field(default_factory=no_rows)

    def __post_init__(self) -> None:
        counts = {
            "profile": len(self.profile),
            "history": len(self.history),
            "seen_offsets": len(self.seen_offsets) - 1,
        }
        if self.chosen is not None:
            counts["chosen"] = len(self.chosen[0]) - 1
        if len(set(counts.values())) != 1:
            raise ValueError(
                f"profile, history, seen_offsets: need one line a user row, received {counts}; use one ingested run"
            )
        if self.profile_words and len(self.profile_words) != self.profile.shape[1]:
            raise ValueError(
                f"profile_words: need one entry a profile column ({self.profile.shape[1]}), received "
                f"{', '.join(self.profile_words)}; use one ingested run"
            )
        if self.history.shape[1] < 1 or self.history[UNKNOWN_ROW].any() or self.seen_offsets[1] != 0:
            raise ValueError(
                "history: need at least one step, and an empty history and no seen items for row 0, the unknown user"
            )
        if self.seen_offsets[-1] != len(self.seen_rows):
            raise ValueError(
                f"seen_offsets: must end at {len(self.seen_rows)}, the seen rows, received {self.seen_offsets[-1]}"
            )


def table_variable(values: np.ndarray, dtype: Any, name: str) -> tf.Variable:
    """A table with a line an item, a user or an event, of which the graph does not know how many there are.

    It is then the graph of any other night too, and what users did since can be written into copies of a release
    (`serving.export.overlay`).
    """
    values = np.asarray(values)
    return tf.Variable(values, trainable=False, dtype=dtype, shape=(None, *values.shape[1:]), name=name)


def without_gone(excluded: tf.Tensor, gone: tf.Tensor) -> tf.Tensor:
    """Rows that a request excludes [B, E], and beside them those of items that are gone [G] -> int32 [B, E + G].

    Example:
        >>> without_gone(tf.constant([[5], [0]]), tf.constant([7])).numpy().tolist()
        [[5, 7], [0, 7]]
    """
    return tf.concat([excluded, tf.tile(gone[None], [tf.shape(excluded)[0], 1])], axis=1)


def choose_history(recent: tf.Tensor, stored: tf.Tensor) -> tf.Tensor:
    """A request's own recent items, or the stored ones where it names none that is known.

    Unknown items (row 0) are dropped and the rest moved to the left, so that a history never has holes.

    Shapes: recent [B, H] rows, most recent first, H >= 0; stored [B, L] -> [B, L].

    Example:
        >>> choose_history(tf.constant([[0, 5, 0, 6], [0, 0, 0, 0]]), tf.constant([[1, 2], [3, 0]])).numpy().tolist()
        [[5, 6], [3, 0]]
    """
    length = tf.shape(stored)[1]
    padded = tf.pad(recent, [[0, 0], [0, length]])
    # Equal values come in the order of their places, so this moves known items to the left and keeps their order.
    _, places = tf.math.top_k(tf.cast(padded != 0, tf.int32), length)
    given = tf.gather(padded, places, batch_dims=1)
    chosen = tf.where(tf.reduce_any(recent != 0, axis=1, keepdims=True), given, stored)
    return tf.ensure_shape(chosen, stored.shape)


def users_rows(offsets: tf.Tensor, rows: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
    """The rows of each user, [B, most rows in the batch], filled with 0.

    Shapes: offsets int64 [U + 2], rows int32 [E], user int32 [B].

    Example:
        >>> offsets, rows = tf.constant([0, 0, 2, 3], tf.int64), tf.constant([7, 5, 9])
        >>> users_rows(offsets, rows, tf.constant([2, 1])).numpy().tolist()
        [[9, 0], [7, 5]]
    """
    start, end = tf.gather(offsets, user), tf.gather(offsets, user + 1)
    places = tf.ragged.range(start, end)
    return places.with_values(tf.gather(rows, places.values)).to_tensor(0)


def choose_whole_history(recent: tf.Tensor, stored: tf.Tensor) -> tf.Tensor:
    """As `choose_history`, of any length, each item once and in no particular order.

    Shapes: recent [B, H] rows, H >= 0; stored [B, S], S >= 0 -> [B, max(H, S)], filled with 0.

    Example:
        >>> choose_whole_history(tf.constant([[5, 6, 5], [0, 0, 0]]), tf.constant([[1], [3]])).numpy().tolist()
        [[5, 0, 6], [0, 0, 3]]
    """
    width = tf.maximum(tf.shape(recent)[1], tf.shape(stored)[1])
    given, kept = (tf.pad(rows, [[0, 0], [0, width - tf.shape(rows)[1]]]) for rows in (recent, stored))
    return distinct_rows(tf.where(tf.reduce_any(recent != 0, axis=1, keepdims=True), given, kept))
