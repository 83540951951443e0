"""The best of a request's own list of items: scored one by one, since what is best over all may hold none of them."""

from __future__ import annotations

import tensorflow as tf

from serving.index.index import LOWEST, CandidateIndex, keep_best


def distinct_rows(rows: tf.Tensor) -> tf.Tensor:
    """Each row once, in rising order, 0 in the places of repeats.

    Example:
        >>> distinct_rows(tf.constant([[5, 0, 3, 5]])).numpy().tolist()
        [[0, 3, 5, 0]]
    """
    ordered = tf.sort(rows, axis=1)
    again = tf.pad(ordered[:, 1:] == ordered[:, :-1], [[0, 0], [tf.minimum(tf.shape(rows)[1], 1), 0]])
    return tf.where(again, 0, ordered)


def among(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each row is among the others of its line, by search in the sorted others: [B, A], [B, E] -> bool [B, A].

    Example:
        >>> among(tf.constant([[4, 7]]), tf.constant([[9, 7, 0]])).numpy().tolist()
        [[False, True]]
    """
    ordered = tf.pad(tf.sort(others, axis=1), [[0, 0], [0, 1]], constant_values=tf.int32.max)
    places = tf.searchsorted(ordered, rows)
    return tf.gather(ordered, tf.minimum(places, tf.shape(ordered)[1] - 1), batch_dims=1) == rows


def search_allowed(
    index: CandidateIndex, queries: tf.Tensor, k: tf.Tensor, hidden: tf.Tensor, allowed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best of each line's allowed rows that are not hidden, as `CandidateIndex.search` answers.

    Shapes: queries f32 [B, D], k int32 scalar, hidden int32 [B, E], allowed int32 [B, A], A >= 0, 0 = none.
    """
    rows = distinct_rows(allowed)
    scores = tf.einsum("bd,bad->ba", queries, index.embeddings(rows))
    return keep_best(rows, tf.where((rows == 0) | among(rows, hidden), LOWEST, scores), k)
