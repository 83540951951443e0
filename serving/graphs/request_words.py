"""What a request says in words, "column=word": the moment it comes from, and the profile of whoever asks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import tensorflow as tf

from data.categorical import NUMBER, first_interval, interval_edges
from data.schema import UNKNOWN_ROW

Vocabulary = Mapping[str, tuple[str, ...]]
"""Column -> its words by code; index 0 is "", and a word that was forgotten is "" too."""


def frozen(words: Mapping[str, Sequence[str]]) -> Vocabulary:
    """A vocabulary that nobody changes, and that a `tf.Module` does not track."""
    return {column: tuple(values) for column, values in words.items()}


def no_words() -> tf.Tensor:
    """What a signature reads where a request leaves its words out: those of no line."""
    return tf.zeros((0, 0), tf.string)


def word_codes(words: tf.Tensor, vocabulary: Vocabulary, batch: tf.Tensor) -> tf.Tensor | None:
    """Codes of a request's words, 0 = unknown; columns and words that nobody knows say nothing. None without a vocabulary.

    A column of numbers in intervals, as in "[18, 25)", takes a number as well as the interval's own name; one beyond all
    intervals falls into the nearest.

    Shapes: words string [B, W], each "column=word" in any order, or of no line: then all is unknown; batch int32 scalar
    B -> int32 [B, C], in the order of the vocabulary.

    Raises (in the graph, as InvalidArgumentError): words of another number of lines.

    Example:
        >>> vocabulary = {"device": ("", "tv", "phone"), "age": ("", "[18, 25)", "[25, 99]")}
        >>> asked = tf.constant([["age=31.5", "device=phone"], ["device=fridge", "age=[18, 25)"], ["", "age=7"]])
        >>> word_codes(asked, vocabulary, tf.constant(3)).numpy().tolist()
        [[2, 2], [0, 1], [0, 1]]
    """
    if not vocabulary:
        return None
    lines = tf.shape(words)[0]
    message = "context, profile: need words of one line a user or of none, received lines"
    with tf.control_dependencies([tf.debugging.Assert((lines == batch) | (lines == 0), [message, lines])]):
        words = tf.identity(words)
    codes = []
    for column, values in vocabulary.items():
        known = {f"{column}={value}": code for code, value in enumerate(values) if value}
        same = words[:, :, None] == tf.constant(list(known), tf.string)[None, None, :]
        # Of no words and of no values the greatest is 0, as of words that nobody knows.
        found = tf.where(same, tf.constant(list(known.values()), tf.int32)[None, None, :], UNKNOWN_ROW)
        by_word = tf.reduce_max(tf.pad(found, [[0, 0], [0, 1], [0, 1]]), axis=[1, 2])
        edges = interval_edges(values)
        codes.append(by_word if edges is None else tf.maximum(by_word, _interval_codes(words, column, edges)))
    return tf.pad(tf.stack(codes, axis=1), [[0, batch - lines], [0, 0]])


def _interval_codes(words: tf.Tensor, column: str, edges: list[float]) -> tf.Tensor:
    """The interval of the number that a line names for a column, int32 [B]; 0 where it names none."""
    named = tf.strings.regex_full_match(words, f"{re.escape(column)}={NUMBER}")
    number = tf.strings.regex_replace(words, f"^{re.escape(column)}=", "")
    values = tf.strings.to_number(tf.where(named, number, "0"), tf.float64)
    place = tf.searchsorted(tf.constant(edges, tf.float64), tf.reshape(values, [-1]), side="right")
    codes = tf.where(named, tf.reshape(tf.maximum(place, first_interval(edges)), tf.shape(words)), UNKNOWN_ROW)
    return tf.reduce_max(tf.pad(codes, [[0, 0], [0, 1]]), axis=1)
