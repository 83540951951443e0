"""Encoded pictures to pixels inside a graph, one broken picture leaving the others alone."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from data.image_decoder import DRAFT_FACTOR, MAX_SCANNED_PIXELS
from data.media import MAX_PIXELS
from serving.graphs.raw_orientation import find, orientation, upright

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
GREY_ALPHA, COLOUR_ALPHA = 4, 6
"""Colour types of a PNG."""

SCALES = (8, 4, 2)
"""A JPEG many times too large is decoded at one of these fractions, by the rule of `data.image_decoder`."""


def decode_pictures(contents: Any, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """JPEG, PNG, WebP and GIF (first frame) to squares, as the encode stage decodes them.

    JPEGs by the accurate integer transform and turned by their EXIF orientation, transparency of a PNG on white, then
    squeezed by a triangle filter as wide as the reduction. Not as there: transparency of GIF and WebP shows what lies
    below it, a PNG with a wrong checksum is refused, and servers before TensorFlow 2.20 know no WebP.

    Whatever cannot be decoded (empty, no picture, truncated, broken inside, more than 40 million pixels by its header)
    is absent; an operation that fails inside a dataset drops its own element only.

    Shapes: string [B] -> uint8 [B, size, size, 3], zeros where absent, and present bool [B].
    """
    contents = tf.convert_to_tensor(contents)
    count = tf.shape(contents)[0]
    pictures = tf.data.Dataset.from_tensor_slices((tf.range(count), contents))
    pictures = pictures.map(lambda place, content: (place, _decode(content, size)), num_parallel_calls=2)
    # One element more, at a place that is cut off again: a batch must not be empty.
    last = tf.data.Dataset.from_tensors((count, tf.zeros((size, size, 3), tf.uint8)))
    pictures = pictures.ignore_errors().concatenate(last).batch(tf.cast(count, tf.int64) + 1)
    places, pixels = pictures.get_single_element()
    places = places[:, None]
    squares = tf.scatter_nd(places, pixels, [count + 1, size, size, 3])[:-1]
    present = tf.scatter_nd(places, tf.ones_like(places[:, 0]), [count + 1])[:-1] > 0
    return squares, present


def _decode(content: tf.Tensor, size: int) -> tf.Tensor:
    """One picture as uint8 [size, size, 3]; fails where it cannot."""
    starts = [tf.strings.substr(content, 0, len(magic)) == magic for magic in (JPEG, PNG)]
    pixels = tf.case(
        [
            (starts[0], lambda: _decode_jpeg(content, size)),
            (starts[1], lambda: _decode_png(content)),
        ],
        default=lambda: _decode_other(content),
    )
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    # Columns, then rows, with whole numbers between: Pillow works so, and signal statistics see the difference.
    pixels = _rounded(tf.image.resize(pixels, (tf.shape(pixels)[0], size), "bilinear", antialias=True))
    square = tf.cast(_rounded(tf.image.resize(pixels, (size, size), "bilinear", antialias=True)), tf.uint8)
    return upright(square, tf.cond(starts[0], lambda: orientation(content), lambda: 1))


def _rounded(pixels: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.floor(pixels + 0.5), 0.0, 255.0)


def _decode_jpeg(content: tf.Tensor, size: int) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(content)
    data = tf.io.decode_raw(content, tf.uint8)
    scans = tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA))
    pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
    few = tf.debugging.Assert(scans * pixels <= MAX_SCANNED_PIXELS, ["scans: too many", scans])
    with tf.control_dependencies([_assert_bounded(shape), few]):
        room = tf.reduce_min(shape[:2]) // (DRAFT_FACTOR * size)
    ratio = tf.reduce_sum([tf.cast(room >= scale, tf.int32) for scale in SCALES])

    def at(scale: int):
        return lambda: tf.io.decode_jpeg(content, 3, ratio=scale, dct_method="INTEGER_ACCURATE")

    pixels = tf.switch_case(ratio, [at(1), *(at(scale) for scale in reversed(SCALES))])
    return tf.cast(pixels, tf.float32)


def _decode_png(content: tf.Tensor) -> tf.Tensor:
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 16, 10), tf.uint8), tf.int64)
    sides = tf.reduce_sum(tf.reshape(header[:8], (2, 4)) * [1 << 24, 1 << 16, 1 << 8, 1], axis=1)
    # Only where a file says so: to palettes of 1 to 4 bits TensorFlow adds an alpha of 1 to 15 of 255.
    transparent = (header[9] == GREY_ALPHA) | (header[9] == COLOUR_ALPHA) | find(content, b"tRNS")[0]
    with tf.control_dependencies([_assert_bounded(sides)]):
        return tf.cond(
            transparent,
            lambda: _on_white(tf.cast(tf.io.decode_png(content, 4), tf.float32)),
            lambda: tf.cast(tf.io.decode_png(content, 3), tf.float32),
        )


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    cover = pixels[..., 3:] / 255.0
    return tf.floor(pixels[..., :3] * cover + 255.0 * (1.0 - cover) + 0.5)


def _decode_other(content: tf.Tensor) -> tf.Tensor:
    start = tf.strings.substr(content, 0, 4)
    known = tf.debugging.Assert((start == b"GIF8") | (start == b"RIFF"), ["not a picture"])
    with tf.control_dependencies([known]):
        pixels = tf.io.decode_image(content, channels=3, expand_animations=False)
    with tf.control_dependencies([_assert_bounded(tf.shape(pixels))]):
        return tf.cast(pixels, tf.float32)


def _assert_bounded(sides: tf.Tensor) -> tf.Operation:
    sides = tf.cast(sides[:2], tf.int64)
    # Each side first: the product of two sides of four bytes would overflow.
    fits = tf.reduce_all(sides > 0) & tf.reduce_all(sides <= MAX_PIXELS) & (tf.reduce_prod(sides) <= MAX_PIXELS)
    return tf.debugging.Assert(fits, ["pixels: too many or none", sides])
