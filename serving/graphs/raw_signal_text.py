"""`signal:` text inside a graph: the hashed n-grams of `towers.signal_text`, found and hashed by operations."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from serving.graphs.raw_blake2b import blake2b

NOT_WORD = r"[^\pL\pN_]+"
UNSPACED = r"[\x{3040}-\x{30ff}\x{3400}-\x{4dbf}\x{4e00}-\x{9fff}\x{f900}-\x{faff}\x{ac00}-\x{d7af}]+"
SPACED = UNSPACED.replace("[", "[^")

Grams = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Rows int64 [G], n-grams string [G], weights float32 [G]."""


class SignalText(tf.Module):
    """See `towers.signal_text.SignalTextEncoder`, whose n-grams, weights and bits these are.

    Shapes: string [B] -> float32 [B, F_m] of unit length; zeros for a text without letters.
    """

    def __init__(self, encoder: Any):
        super().__init__(name="signal_text")
        self.width, self.size = encoder.width, encoder.size

    def __call__(self, texts: Any) -> tf.Tensor:
        """Vectors of texts."""
        rows, grams, weights = ngrams(tf.strings.substr(texts, 0, self.size, unit="UTF8_CHAR"))
        _, places = tf.unique(tf.strings.join([tf.strings.as_string(rows), grams], " "))
        count = tf.reduce_max(tf.pad(places, [[0, 1]], constant_values=-1)) + 1
        totals = tf.math.unsorted_segment_sum(weights, places, count)
        first = tf.math.unsorted_segment_min(tf.range(tf.size(places)), places, count)
        digests = blake2b(tf.gather(grams, first), self.width // 8)
        places = tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8)
        bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(digests[:, :, None], places), 1)
        signs = 2.0 * tf.cast(tf.reshape(bits, (-1, self.width)), tf.float32) - 1.0
        sums = tf.math.unsorted_segment_sum(
            tf.sqrt(totals)[:, None] * signs, tf.gather(rows, first), tf.shape(texts, tf.int64)[0]
        )
        length = tf.norm(sums, axis=1, keepdims=True)
        return sums / tf.where(length > 0, length, 1.0)


def ngrams(texts: Any) -> Grams:
    """The n-grams of texts with their rows and weights; see `towers.signal_text.ngrams`.

    Example:
        >>> from towers.signal_text import ngrams as in_python
        >>> found = sorted(gram.decode() for gram in ngrams(["dub 爵士"])[1].numpy())
        >>> found == sorted(gram for gram, _ in in_python("dub 爵士"))
        True
    """
    lower = tf.strings.lower(tf_text.normalize_utf8(texts, "NFKC"), encoding="utf-8")
    words = tf.strings.split(tf.strings.regex_replace(lower, NOT_WORD, " "))
    row, word = words.value_rowids(), words.values
    parts = [*_unspaced(row, word)]
    rest = tf.strings.regex_replace(word, UNSPACED, "")
    row, rest = tf.boolean_mask(row, rest != ""), tf.boolean_mask(rest, rest != "")
    weight = tf.minimum(tf.cast(tf.strings.length(rest, unit="UTF8_CHAR"), tf.float32), 6.0) / 6.0
    parts.append((row, tf.strings.join(["w:", rest]), weight**2))
    follows = row[1:] == row[:-1]
    pairs = tf.strings.join(["p:", rest[:-1], " ", rest[1:]])
    parts.append(_where(follows, row[1:], pairs, 0.25 * weight[1:] ** 2))
    marked = tf.strings.unicode_split(tf.strings.join(["<", rest, ">"]), "UTF-8")
    for n in (3, 4, 5):
        found = tf.strings.ngrams(marked, n, separator="")
        of = found.value_rowids()
        parts.append((tf.gather(row, of), tf.strings.join(["c:", found.values]), 0.1 * tf.gather(weight, of)))
    rows, grams, weights = zip(*parts, strict=True)
    return tf.concat(rows, 0), tf.concat(grams, 0), tf.concat(weights, 0)


def _unspaced(row, word) -> list[Grams]:
    """Characters and neighbouring pairs of Chinese, Japanese and Korean runs."""
    runs = tf.strings.split(tf.strings.regex_replace(word, SPACED, " "))
    row = tf.gather(row, runs.value_rowids())
    characters = tf.strings.unicode_split(runs.values, "UTF-8")
    parts = []
    for n, weight in ((1, 0.5), (2, 1.0)):
        found = tf.strings.ngrams(characters, n, separator="")
        grams = tf.strings.join(["w:", found.values])
        parts.append((tf.gather(row, found.value_rowids()), grams, tf.fill(tf.shape(grams), weight)))
    return parts


def _where(mask, *columns) -> Any:
    return tuple(tf.boolean_mask(column, mask) for column in columns)
