"""Augmentation of content: noise and dropout on standardised feature vectors, in training alone."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class FeatureNoise(keras.layers.Layer):
    """Blur content vectors, so that the item tower cannot learn items by heart from their exact content.

    Formula: `y = d (x + sigma / sqrt(R) n)`, n standard normal and d in {0, 1 / (1 - drop)} for each number apart. The
    vectors have a total variance of 1 over R components, so sigma is the noise's share of the signal's own deviation.
    Srivastava et al., *Dropout*, JMLR 2014; Sietsma and Dow, *Creating artificial neural networks that generalize*, 1991.

    Args:
        noise: sigma. drop: share of numbers set to 0. seed: of the draws.

    Shapes: [B, R] -> [B, R]; unchanged outside training.

    Raises:
        ValueError: a negative noise, or a drop outside [0, 1).
    """

    def __init__(self, noise: float = 0.0, drop: float = 0.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if noise < 0 or not 0 <= drop < 1:
            raise ValueError(f"noise, drop: must be at least 0 and in [0, 1), received {noise} and {drop}")
        self.noise, self.drop, self.seed = noise, drop, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, values, training=False):
        if not training:
            return values
        if self.noise:
            draw = keras.random.normal(ops.shape(values), dtype=values.dtype, seed=self.seed_generator)
            values = values + self.noise / values.shape[-1] ** 0.5 * draw
        if self.drop:
            values = keras.random.dropout(values, self.drop, seed=self.seed_generator)
        return values

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "noise": self.noise, "drop": self.drop, "seed": self.seed}
