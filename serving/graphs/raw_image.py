"""Raw pictures inside a graph: pixels to the vectors of a convolutional or transformer encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from serving.graphs.keras_weights import KerasWeights


class ScaledImage(tf.Module):
    """Encoders whose preprocessing is one affine map a channel (`pack:efficientnet`, `keras_hub:` image converters).

    The map is read off the encoder's own `tensors`, on a black and a white picture, and a third, grey one checks that
    it is affine.

    Args:
        encoder: with `tensors`, `model`, `width` and `size`.

    Shapes: uint8 [B, size, size, 3] -> float32 [B, F_m].

    Raises:
        ValueError: the preprocessing is not affine, or changes the size.
    """

    def __init__(self, encoder: Any):
        super().__init__(name="scaled_image")
        self.width, self.size = encoder.width, encoder.size
        flat = np.zeros((3, self.size, self.size, 3), np.uint8)
        flat[1], flat[2] = 255, 100
        black, white, grey = np.asarray(encoder.tensors(flat), np.float32)
        if black.shape != flat.shape[1:] or not np.allclose(grey, black + (white - black) * (100 / 255), atol=1e-4):
            raise ValueError(f"encoder: preprocessing must be an affine map of each channel, {encoder.name} has another")
        self.offset = tf.constant(black[0, 0])
        self.slope = tf.constant(((white - black) / 255)[0, 0])
        self.model = KerasWeights(encoder.model, "image")

    def __call__(self, images: Any) -> tf.Tensor:
        """Vectors of pictures."""
        return self.model(tf.cast(images, tf.float32) * self.slope + self.offset)
