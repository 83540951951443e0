"""Fusion: one vector out of the modalities that an item has.

Everything works under the *present* mask [B, M]: an absent modality has gate 0, and what the gates see in its place is
a learned absent token, so that "no cover" is information rather than a vector of zeros.
"""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class ModalityProjection(keras.layers.Layer):
    """Standardise one modality's features and project them to the embedding width.

    Formula: `y = ((x - mean) * scale) W + b` where `present`, and the learned absent token elsewhere. `mean` [F_m] and
    `scale` [F_m] are fixed by `adapt` from the training table and travel with the weights.

    Args:
        width: D.

    Shapes: features [B, F_m], present [B] bool -> tokens [B, D].
    """

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.dense = keras.layers.Dense(width, name="dense")

    def build(self, features_shape, present_shape=None):
        feature_width = features_shape[-1]
        self.mean = self.add_weight(shape=(feature_width,), initializer="zeros", trainable=False, name="mean")
        self.scale = self.add_weight(shape=(feature_width,), initializer="ones", trainable=False, name="scale")
        self.absent = self.add_weight(
            shape=(self.width,), initializer=keras.initializers.RandomNormal(0.0, 0.05), name="absent"
        )
        self.dense.build((None, feature_width))

    def adapt(self, mean, scale) -> None:
        """Set the standardisation; see `feature_moments` for where the numbers come from."""
        self.mean.assign(mean)
        self.scale.assign(scale)

    def call(self, features, present):
        tokens = self.dense((ops.cast(features, self.compute_dtype) - self.mean) * self.scale)
        return ops.where(present[:, None], tokens, ops.convert_to_tensor(self.absent))

    def compute_output_shape(self, features_shape, present_shape=None):
        return (features_shape[0], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def feature_moments(table, present):
    """Mean and scale that give a modality unit *total* variance over its present rows.

    Formula: `mean_f`, `scale_f = 1 / sqrt(var_f + eps) / sqrt(F_m)` with eps a hundredth of the mean variance, so that
    a
    constant column is not blown up, and a wide modality does not shout down a narrow one.

    Shapes: table [N, F_m], present [N] bool -> mean [F_m], scale [F_m] (float32 NumPy).

    Example:
        >>> import numpy as np
        >>> mean, scale = feature_moments(np.array([[0., 2.], [2., 2.], [9., 9.]]), np.array([True, True, False]))
        >>> mean.tolist()
        [1.0, 2.0]
    """
    import numpy as np

    rows = np.asarray(table)[np.asarray(present)].astype(np.float32)
    if not len(rows):
        return np.zeros(table.shape[1], np.float32), np.ones(table.shape[1], np.float32)
    variance = rows.var(axis=0)
    floor = 0.01 * float(variance.mean()) + 1e-12
    return rows.mean(axis=0), (1.0 / np.sqrt(variance + floor) / np.sqrt(table.shape[1])).astype(np.float32)


@keras.saving.register_keras_serializable("triptych")
class ModalityDropout(keras.layers.Layer):
    """Hide present modalities at random in training, never the last one an item has.

    This is what makes an item without a cover, or without a history (its id is a modality too), as good as its
    remaining
    modalities allow: the tower has met such items. Ngiam et al., *Multimodal Deep Learning*, ICML 2011; Volkovs et al.,
    *DropoutNet*, NeurIPS 2017.

    Args:
        rates: probability of hiding each modality, in the order of axis M.

    Shapes: present [B, M] bool -> [B, M] bool.
    """

    def __init__(self, rates, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.rates = tuple(float(rate) for rate in rates)
        if any(not 0 <= rate < 1 for rate in self.rates):
            raise ValueError(f"rates: every rate must lie in [0, 1), received {self.rates}")
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, present, training=False):
        if not training or not any(self.rates):
            return present
        draw = keras.random.uniform(ops.shape(present), seed=self.seed_generator)
        kept = ops.logical_and(present, draw >= ops.convert_to_tensor(self.rates, dtype=draw.dtype))
        return ops.where(ops.any(kept, axis=-1, keepdims=True), kept, present)

    def compute_output_shape(self, present_shape):
        return present_shape

    def get_config(self):
        return {**super().get_config(), "rates": self.rates, "seed": self.seed}


@keras.saving.register_keras_serializable("triptych")
class GatedFusion(keras.layers.Layer):
    """Weigh each modality by a gate that looks at all of them, and add them up.

    Formula: `g = 2 sigmoid(W [t_1; ...; t_M] + b)`, zero where absent; `fused = sum_m g_m t_m`. With W = 0 at the
    start every
    gate is 1 and fusion is a plain sum. Arevalo et al., *Gated Multimodal Units*, 2017.

    Shapes: tokens [B, M, D], present [B, M] bool -> fused [B, D] and {"gates": [B, M]}. All absent gives 0.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense: keras.layers.Dense | None = None

    def build(self, tokens_shape, present_shape=None):
        modalities, width = tokens_shape[1], tokens_shape[2]
        self.dense = keras.layers.Dense(modalities, kernel_initializer="zeros", name="gate")
        self.dense.build((None, modalities * width))

    def call(self, tokens, present):
        modalities, width = tokens.shape[1], tokens.shape[2]
        gates = 2.0 * ops.sigmoid(self.dense(ops.reshape(tokens, (-1, modalities * width))))
        gates = gates * ops.cast(present, gates.dtype)
        return ops.sum(gates[:, :, None] * tokens, axis=1), {"gates": gates}

    def compute_output_shape(self, tokens_shape, present_shape=None):
        return (tokens_shape[0], tokens_shape[2]), {"gates": (tokens_shape[0], tokens_shape[1])}


def unit_length(vectors):
    """Scale vectors to length 1; a zero vector stays zero and has a finite gradient (`ops.normalize` gives NaN there).

    Formula: `x / sqrt(sum x^2 + 1e-12)`. Shapes: [..., D] -> [..., D].

    Example:
        >>> ops.convert_to_numpy(unit_length(ops.array([[3.0, 4.0], [0.0, 0.0]]))).astype("float64").round(3).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-12)
