"""`signal:` pictures inside a graph: the statistics of `towers.signal_image` by core operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from towers.signal_image import BANDS, GRID, HUES, LEVELS, ORIENTATIONS, SECTORS, SignalImageEncoder

TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([[0.95047], [1.0], [1.08883]])


class SignalImage(tf.Module):
    """See `towers.signal_image.SignalImageEncoder`, whose features these are, in its order.

    Shapes: uint8 [B, size, size, 3] -> float32 [B, 181].
    """

    def __init__(self, encoder: SignalImageEncoder):
        super().__init__(name="signal_image")
        self.width, self.size = encoder.width, encoder.size
        self.linear = tf.constant(encoder.linear)
        self.sectors = tf.constant(encoder.sectors)
        self.window = tf.constant(encoder.window)
        self.to_xyz = tf.constant((TO_XYZ / WHITE).T.astype(np.float32))
        self.shades = tf.constant(np.arange(256, dtype=np.float32) / 255.0)
        # Divisors as variables: by a constant, TensorFlow multiplies with its reciprocal, and what lies on the edge of
        # two bins, as in flat pictures, falls into the other one.
        self.six = tf.Variable(6.0, trainable=False, name="six")
        self.pi = tf.Variable(np.float32(np.pi), trainable=False, name="pi")

    def __call__(self, images: Any) -> tf.Tensor:
        """Vectors of pictures."""
        lab = self._lab(tf.gather(self.linear, tf.cast(images, tf.int32)))
        light = lab[..., 0]
        parts = [
            *self._colour_histograms(tf.gather(self.shades, tf.cast(images, tf.int32))),
            _moments(lab),
            tf.reshape(_cells(lab, GRID, self.size), (-1, GRID * GRID * 3)),
            self._orientations(light),
            self._band_energies(light),
            self._spectrum(light),
        ]
        return tf.concat(parts, axis=1)

    def _lab(self, linear: tf.Tensor) -> tf.Tensor:
        xyz = tf.matmul(linear, self.to_xyz)
        root = tf.where(xyz > 216 / 24389, tf.maximum(xyz, 1e-9) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
        x, y, z = tf.unstack(root, axis=-1)
        return tf.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], axis=-1)

    def _colour_histograms(self, rgb: tf.Tensor) -> list[tf.Tensor]:
        red, green, blue = tf.unstack(rgb, axis=-1)
        value = tf.reduce_max(rgb, axis=-1)
        chroma = value - tf.reduce_min(rgb, axis=-1)
        safe = tf.where(chroma > 0, chroma, 1.0)
        after = tf.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
        hue = tf.where(value == red, tf.math.floormod((green - blue) / safe, 6.0), after)
        saturation = chroma / tf.where(value > 0, value, 1.0)
        return [
            _histogram(hue / self.six, HUES, chroma),
            _histogram(saturation, LEVELS, tf.ones_like(chroma)),
            _histogram(value, LEVELS, tf.ones_like(chroma)),
        ]

    def _orientations(self, light: tf.Tensor) -> tf.Tensor:
        dy = _gradient(light, 1)
        dx = _gradient(light, 2)
        magnitude = tf.sqrt(dx * dx + dy * dy)
        angle = tf.math.floormod(tf.atan2(dy, dx) / self.pi, 1.0)
        place = tf.minimum(tf.cast(angle * ORIENTATIONS, tf.int32), ORIENTATIONS - 1)
        pooled = _regions(magnitude[..., None] * tf.one_hot(place, ORIENTATIONS), self.size)
        total = tf.reduce_sum(pooled, axis=-1, keepdims=True)
        features = tf.concat([tf.sqrt(pooled / (total + 1e-4)), 0.2 * tf.math.log(total + 1e-4) + 1], axis=-1)
        return tf.reshape(features, (-1, 5 * (ORIENTATIONS + 1)))

    def _band_energies(self, light: tf.Tensor) -> tf.Tensor:
        bands, size = [], self.size
        for _ in range(3):
            size = size // 2 * 2
            light = light[:, :size, :size]
            smaller = tf.reduce_mean(tf.reshape(light, (-1, size // 2, 2, size // 2, 2)), axis=(2, 4))
            detail = (light - tf.repeat(tf.repeat(smaller, 2, axis=1), 2, axis=2)) ** 2
            even = size // 4 * 4
            bands.append(tf.reshape(_regions(detail[:, :even, :even, None], even), (-1, 5)))
            light, size = smaller, size // 2
        return 0.2 * tf.math.log(tf.concat(bands, axis=1) + 1e-6) + 1.5

    def _spectrum(self, light: tf.Tensor) -> tf.Tensor:
        centred = (light - tf.reduce_mean(light, axis=(1, 2), keepdims=True)) * self.window
        power = tf.abs(tf.signal.rfft2d(centred)) ** 2
        pooled = tf.matmul(tf.reshape(power, (-1, self.size * (self.size // 2 + 1))), self.sectors)
        shares = pooled / (tf.reduce_sum(pooled, axis=1, keepdims=True) + 1e-6)
        return tf.ensure_shape(0.2 * tf.math.log(shares + 1e-4) + 0.7, (None, BANDS * SECTORS))


def _histogram(values: tf.Tensor, bins: int, weights: tf.Tensor) -> tf.Tensor:
    """sqrt(weighted histogram / number of pixels) [B, bins] of values [B, H, W] in 0..1."""
    images, pixels = tf.shape(values)[0], values.shape[1] * values.shape[2]
    place = tf.minimum(tf.cast(values * bins, tf.int32), bins - 1) + bins * tf.range(images)[:, None, None]
    counts = tf.math.unsorted_segment_sum(tf.reshape(weights, (-1,)), tf.reshape(place, (-1,)), images * bins)
    return tf.sqrt(tf.reshape(counts, (-1, bins)) / pixels)


def _moments(lab: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(lab, axis=(1, 2))
    centred = lab - mean[:, None, None]
    third = tf.reduce_mean(centred**3, axis=(1, 2))
    root = tf.sign(third) * tf.abs(third) ** (1 / 3)
    return tf.concat([mean, tf.sqrt(tf.reduce_mean(centred**2, axis=(1, 2))), root], axis=1)


def _cells(values: tf.Tensor, grid: int, size: int) -> tf.Tensor:
    """Means of [B, size, size, C] over the cells of a grid: [B, grid, grid, C]."""
    step = size // grid
    return tf.reduce_mean(tf.reshape(values, (-1, grid, step, grid, step, values.shape[-1])), axis=(2, 4))


def _regions(values: tf.Tensor, size: int) -> tf.Tensor:
    """Means of [B, size, size, C] over the whole and its quarters: [B, 5, C]."""
    quarters = tf.reshape(_cells(values, 2, size), (-1, 4, values.shape[-1]))
    return tf.concat([tf.reduce_mean(quarters, axis=1, keepdims=True), quarters], axis=1)


def _gradient(values: tf.Tensor, axis: int) -> tf.Tensor:
    """Central differences along an axis, one-sided at both ends, as `numpy.gradient`."""
    size = values.shape[axis]
    before = tf.gather(values, [0, *range(size - 1)], axis=axis)
    after = tf.gather(values, [*range(1, size), size - 1], axis=axis)
    spans = np.full(size, 2.0, np.float32)
    spans[[0, -1]] = 1.0
    return (after - before) / tf.constant(spans[:, None] if axis == 1 else spans)
