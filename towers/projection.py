"""Projection: one modality's content vectors, standardised by what the catalogue holds, to the embedding width."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from towers.augmentation import FeatureNoise

SAMPLE = 50_000
"""Rows of a table by which it is whitened."""


@keras.saving.register_keras_serializable("triptych")
class ModalityProjection(keras.layers.Layer):
    """Standardise one modality's features, or their leading components, and project them to the embedding width.

    Formula: `y = ((x - mean) P) W + b` where `present`, and the learned absent token elsewhere. `mean` [F_m] and `P`
    are fixed by `adapt` from the training table and travel with the weights; see `standardisation`. P is [F_m, R], or a
    vector of scales [F_m] where the columns stay as they are.

    Args:
        width: D.
        rank: R at most; the tower sees no more components than that. 0, or F_m and more = the columns as they are.
        noise, drop, seed: of `FeatureNoise` on the standardised features, in training; 0 = none.

    Shapes: features [B, F_m], present [B] bool -> tokens [B, D].
    """

    def __init__(self, width: int, rank: int = 0, noise: float = 0.0, drop: float = 0.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.rank = width, rank
        self.blur = {"noise": noise, "drop": drop, "seed": seed}
        self.augmentation = FeatureNoise(noise, drop, seed) if noise or drop else None
        self.dense = keras.layers.Dense(width, name="dense")

    def build(self, features_shape, present_shape=None):
        kept = add_standardisation(self, features_shape[-1], self.rank)
        self.absent = self.add_weight(
            shape=(self.width,), initializer=keras.initializers.RandomNormal(0.0, 0.05), name="absent"
        )
        self.dense.build((None, kept))

    def adapt(self, table, present) -> None:
        """Fix mean and whitening by a table [N, F_m] and which of its rows are present [N]."""
        mean, whitening = standardisation(np.asarray(table)[np.asarray(present)], self.whitening.shape[-1])
        self.mean.assign(mean)
        self.whitening.assign(whitening)

    def standardise(self, features):
        """What the projection sees of features [B, F_m]: zero mean, total variance 1. -> [B, R]"""
        return standardised(features, self.mean, self.whitening)

    def call(self, features, present, training=False):
        values = self.standardise(ops.cast(features, self.compute_dtype))
        if self.augmentation is not None:
            values = self.augmentation(values, training=training)
        return ops.where(present[:, None], self.dense(values), ops.cast(self.absent, self.compute_dtype))

    def compute_output_shape(self, features_shape, present_shape=None):
        return (features_shape[0], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "rank": self.rank, **self.blur}


def add_standardisation(layer: keras.layers.Layer, width: int, rank: int) -> int:
    """Give a layer the weights `mean` [F] and `whitening` ([F, R], or scales [F]), which `adapt` fixes. Returns R."""
    kept = min(rank or width, width)
    whole = kept == width
    layer.mean = layer.add_weight(shape=(width,), initializer="zeros", trainable=False, name="mean")
    layer.whitening = layer.add_weight(
        shape=(width,) if whole else (width, kept),
        initializer="ones" if whole else "identity",
        trainable=False,
        name="whitening",
    )
    return kept


def standardised(features, mean, whitening):
    """`(x - mean) P`, P a matrix [F, R] or a vector of scales [F]. Shapes: [..., F] -> [..., R].

    Example:
        >>> standardised(np.array([[3.0, 1.0]]), np.ones(2), np.array([0.5, 2.0])).tolist()
        [[1.0, 0.0]]
    """
    centred = features - mean
    return centred * whitening if len(whitening.shape) == 1 else ops.matmul(centred, whitening)


def standardisation(rows, rank: int):
    """Mean and projection that give rows [N, F] a total variance of 1.

    With `rank` below F, `principal_whitening`. Otherwise the columns stay apart, each with a scale of its own,
    `1 / sqrt(F (var_f + eps))`, eps a hundredth of the mean variance, so that a constant column is not blown up.
    Whitening all components would weigh the last, which are noise, like the first.

    Returns: mean [F], and a projection [F, R] or scales [F], float32 NumPy.

    Example:
        >>> mean, scales = standardisation(np.array([[0.0, 2.0], [2.0, 2.0]]), 2)
        >>> mean.tolist(), scales.astype(float).round(2).tolist()
        ([1.0, 2.0], [0.71, 10.0])
    """
    width = rows.shape[1]
    if rank < width:
        return principal_whitening(rows, rank)
    if not len(rows):
        return np.zeros(width, np.float32), np.ones(width, np.float32)
    values = np.asarray(rows, np.float32)
    variance = values.var(axis=0)
    scale = 1.0 / np.sqrt(variance + 0.01 * variance.mean() + 1e-12) / np.sqrt(width)
    # Of rows that are all alike nothing is known but where they lie: another one would be blown up beyond all others.
    scale *= variance.mean() > 0
    return values.mean(axis=0), scale.astype(np.float32)


def principal_whitening(rows, rank: int):
    """Mean and projection to the leading principal components, each with the same variance, 1 in all together.

    Formula: with `cov(x) = V diag(v) V'`, largest first, `P = V_R diag(1 / sqrt(R (v_r + eps)))`, eps a thousandth of
    the mean variance kept, so that components without content are not blown up. Raw vectors of a pretrained encoder
    share large common directions and have far more columns than a catalogue has items to learn from; in the whitened
    leading components a linear projection generalises to items that it has not seen.

    Args:
        rows: [N, F], the present ones only. rank: R, at most F.

    Returns: mean [F], projection [F, R], float32 NumPy; components that the rows do not have are zeros.

    Example:
        >>> mean, projection = principal_whitening(np.array([[0.0, 2.0], [2.0, 2.0]]), 1)
        >>> mean.tolist(), np.abs(projection).round(2).tolist()
        ([1.0, 2.0], [[1.0], [0.0]])
    """
    width = rows.shape[1]
    if len(rows) > SAMPLE:
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False))]
    if not len(rows):
        return np.zeros(width, np.float32), np.eye(width, rank, dtype=np.float32)
    values = np.asarray(rows, np.float64)
    mean = values.mean(axis=0)
    values -= mean
    variances, directions = np.linalg.eigh(values.T @ values / len(values))
    variances, directions = np.maximum(variances[::-1][:rank], 0.0), directions[:, ::-1][:, :rank]
    # The sign of a direction is arbitrary; fixed, it is the same on every machine.
    directions = directions * np.where(directions[np.abs(directions).argmax(axis=0), np.arange(rank)] < 0, -1.0, 1.0)
    floor = 1e-3 * variances.mean()
    scale = np.where(variances > 1e-9 * variances[0], 1.0 / np.sqrt(rank * (variances + floor + 1e-30)), 0.0)
    return mean.astype(np.float32), (directions * scale).astype(np.float32)
