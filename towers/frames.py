"""Video in the item tower: frames weighed by learned attention."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from towers.augmentation import FeatureNoise
from towers.projection import add_standardisation, standardisation, standardised


@keras.saving.register_keras_serializable("triptych")
class FrameProjection(keras.layers.Layer):
    """Project every frame and add them up by how much each one says; stands where `ModalityProjection` does.

    Formula: with `h_t = ((x_t - mean) P) W + b` for the frames t = 1..T of an item (P as in `ModalityProjection`),
    `a = softmax_t(v . tanh(h_t U))` and `y = sum_t a_t h_t` where `present`, the learned absent token elsewhere.
    Attention pooling after Ilse et al., *Attention-based Deep Multiple Instance Learning*, ICML 2018. With v = 0 at the
    start it is the mean of the frames. The order of frames does not matter.

    Args:
        width: D.
        frames: T.
        rank: R at most; 0 = as many components as a frame has numbers.
        noise, drop, seed: of `FeatureNoise` on every standardised frame, in training; 0 = none.

    Shapes: features [B, T * F] (frames side by side), present [B] bool -> tokens [B, D].

    Raises:
        ValueError: a width of features that T does not divide.
    """

    def __init__(self, width: int, frames: int, rank: int = 0, noise: float = 0.0, drop: float = 0.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.frames, self.rank = width, frames, rank
        self.blur = {"noise": noise, "drop": drop, "seed": seed}
        self.augmentation = FeatureNoise(noise, drop, seed) if noise or drop else None
        self.dense = keras.layers.Dense(width, name="dense")
        self.hidden = keras.layers.Dense(width, activation="tanh", name="hidden")
        self.attention = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="attention")

    def build(self, features_shape, present_shape=None):
        if features_shape[-1] % self.frames:
            raise ValueError(f"features: the width must be a multiple of {self.frames} frames, received {features_shape}")
        kept = add_standardisation(self, features_shape[-1] // self.frames, self.rank)
        self.absent = self.add_weight(
            shape=(self.width,), initializer=keras.initializers.RandomNormal(0.0, 0.05), name="absent"
        )
        self.dense.build((None, self.frames, kept))
        self.hidden.build((None, self.frames, self.width))
        self.attention.build((None, self.frames, self.width))

    def adapt(self, table, present) -> None:
        """Fix mean and whitening by all frames of the present items: table [N, T * F], present [N]."""
        rows = np.asarray(table)[np.asarray(present)].reshape(-1, self.mean.shape[0])
        mean, whitening = standardisation(rows, self.whitening.shape[-1])
        self.mean.assign(mean)
        self.whitening.assign(whitening)

    def standardise(self, features):
        """Mean over the frames of what the projection sees of each. [B, T * F] -> [B, R]"""
        return ops.mean(self._frames(features), axis=1)

    def _frames(self, features):
        frames = ops.reshape(ops.cast(features, self.compute_dtype), (-1, self.frames, self.mean.shape[0]))
        return standardised(frames, self.mean, self.whitening)

    def weigh(self, features, training=False):
        """Projected frames [B, T, D] and their weights [B, T], which add up to 1."""
        frames = self._frames(features)
        if self.augmentation is not None:
            frames = self.augmentation(frames, training=training)
        projected = self.dense(frames)
        return projected, ops.softmax(self.attention(self.hidden(projected))[..., 0], axis=-1)

    def call(self, features, present, training=False):
        projected, weights = self.weigh(features, training=training)
        tokens = ops.sum(projected * weights[..., None], axis=1)
        return ops.where(present[:, None], tokens, ops.cast(self.absent, self.compute_dtype))

    def compute_output_shape(self, features_shape, present_shape=None):
        return (features_shape[0], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "frames": self.frames, "rank": self.rank, **self.blur}
