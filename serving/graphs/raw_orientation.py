"""Which way up a JPEG is meant: the EXIF orientation, read by operations, since no decoder of TensorFlow applies it."""

from __future__ import annotations

import tensorflow as tf

SEARCHED = 65_536
"""Bytes at a file's start in which the EXIF segment is looked for; a segment cannot be longer."""

ENTRY_BYTES = 12
MAX_ENTRIES = 64


def orientation(content: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation 1..8 of one JPEG; 1 where there is none or it makes no sense.

    Layout (EXIF 2.3): "Exif\\0\\0", byte order "II" or "MM", 42, the offset of the first directory; there a count and
    12 bytes an entry: tag, type, count, value. The orientation is tag 0x0112.

    Shapes: string scalar -> int32 scalar.
    """
    there, place = find(content, b"Exif\0\0")
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 0, SEARCHED), tf.uint8), tf.int32)
    data = tf.pad(data, [[0, 6 + 8 + 2 + ENTRY_BYTES * MAX_ENTRIES]])
    start = place + 6
    little = data[start] == ord("I")

    def number(places: tf.Tensor, size: int) -> tf.Tensor:
        octets = tf.gather(data, tf.clip_by_value(places[..., None] + tf.range(size), 0, tf.shape(data)[0] - 1))
        octets = tf.where(little, octets[..., ::-1], octets)
        return tf.reduce_sum(octets * tf.constant([1 << 8 * (size - 1 - step) for step in range(size)]), axis=-1)

    directory = start + tf.clip_by_value(number(start + 4, 4), 0, SEARCHED)
    entries = tf.clip_by_value(number(directory, 2), 0, MAX_ENTRIES)
    places = directory + 2 + ENTRY_BYTES * tf.range(MAX_ENTRIES)
    found = (number(places, 2) == 0x0112) & (number(places + 2, 2) == 3) & (tf.range(MAX_ENTRIES) < entries)
    value = tf.reduce_max(tf.where(found, number(places + 8, 2), 0))
    return tf.where(there & (value >= 1) & (value <= 8), value, 1)


def find(content: tf.Tensor, mark: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether some bytes stand in the first 64 kB of a string, and where first (0 where they do not).

    Example:
        >>> [int(value) for value in find(tf.constant(b"..tRNS.."), b"tRNS")]
        [1, 2]
    """
    data = tf.pad(tf.io.decode_raw(tf.strings.substr(content, 0, SEARCHED), tf.uint8), [[0, len(mark)]])
    windows = tf.shape(data)[0] - len(mark)
    matches = tf.ones((windows,), tf.bool)
    for place, byte in enumerate(mark):
        matches &= data[place : place + windows] == byte
    first = tf.argmax(tf.cast(tf.pad(matches, [[0, 1]]), tf.int32), output_type=tf.int32)
    return tf.reduce_any(matches), first


def upright(pixels: tf.Tensor, turned: tf.Tensor) -> tf.Tensor:
    """A square [S, S, 3] as it is meant to be seen, given the orientation 1..8 of its file."""
    pixels = tf.where((turned == 3) | (turned == 4) | (turned == 6) | (turned == 7), pixels[::-1], pixels)
    pixels = tf.where((turned == 2) | (turned == 3) | (turned == 7) | (turned == 8), pixels[:, ::-1], pixels)
    return tf.where(turned >= 5, tf.transpose(pixels, (1, 0, 2)), pixels)
