"""Fusion: one vector out of the modalities that an item has.

Everything works under the *present* mask [B, M]: an absent modality has gate 0, and what the gates see in its place is
a learned absent token, so that "no cover" is information rather than a vector of zeros.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class ModalityProjection(keras.layers.Layer):
    """Standardise one modality's features, or their leading components, and project them to the embedding width.

    Formula: `y = ((x - mean) P) W + b` where `present`, and the learned absent token elsewhere. `mean` [F_m] and `P`
    [F_m, R] are fixed by `adapt` from the training table and travel with the weights; see `standardisation`.

    Args:
        width: D.
        rank: R at most; the tower sees no more components than that. 0, or F_m and more = the columns as they are.

    Shapes: features [B, F_m], present [B] bool -> tokens [B, D].
    """

    def __init__(self, width: int, rank: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.rank = width, rank
        self.dense = keras.layers.Dense(width, name="dense")

    def build(self, features_shape, present_shape=None):
        feature_width = features_shape[-1]
        kept = min(self.rank or feature_width, feature_width)
        self.mean = self.add_weight(shape=(feature_width,), initializer="zeros", trainable=False, name="mean")
        self.whitening = self.add_weight(
            shape=(feature_width, kept), initializer="identity", trainable=False, name="whitening"
        )
        self.absent = self.add_weight(
            shape=(self.width,), initializer=keras.initializers.RandomNormal(0.0, 0.05), name="absent"
        )
        self.dense.build((None, kept))

    def adapt(self, table, present) -> None:
        """Fix mean and whitening by a table [N, F_m] and which of its rows are present [N]."""
        mean, whitening = standardisation(np.asarray(table)[np.asarray(present)], self.whitening.shape[1])
        self.mean.assign(mean)
        self.whitening.assign(whitening)

    def call(self, features, present):
        centred = ops.cast(features, self.compute_dtype) - self.mean
        tokens = self.dense(ops.matmul(centred, self.whitening))
        return ops.where(present[:, None], tokens, ops.convert_to_tensor(self.absent))

    def compute_output_shape(self, features_shape, present_shape=None):
        return (features_shape[0], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "rank": self.rank}


def standardisation(rows, rank: int):
    """Mean and projection that give rows [N, F] a total variance of 1.

    With `rank` below F, `principal_whitening`. Otherwise the columns stay apart: `P = diag(1 / sqrt(F (var_f + eps)))`,
    eps a hundredth of the mean variance, so that a constant column is not blown up. Whitening all components would
    weigh the last, which are noise, like the first.

    Returns: mean [F], projection [F, R], float32 NumPy.

    Example:
        >>> mean, projection = standardisation(np.array([[0.0, 2.0], [2.0, 2.0]]), 2)
        >>> mean.tolist(), projection.astype(float).round(2).tolist()
        ([1.0, 2.0], [[0.71, 0.0], [0.0, 10.0]])
    """
    width = rows.shape[1]
    if rank < width:
        return principal_whitening(rows, rank)
    if not len(rows):
        return np.zeros(width, np.float32), np.eye(width, dtype=np.float32)
    values = np.asarray(rows, np.float32)
    variance = values.var(axis=0)
    scale = 1.0 / np.sqrt(variance + 0.01 * variance.mean() + 1e-12) / np.sqrt(width)
    return values.mean(axis=0), np.diag(scale).astype(np.float32)


def principal_whitening(rows, rank: int, *, sample: int = 50_000, seed: int = 0):
    """Mean and projection to the leading principal components, each with the same variance, 1 in all together.

    Formula: with `cov(x) = V diag(v) V'`, largest first, `P = V_R diag(1 / sqrt(R (v_r + eps)))`, eps a thousandth of
    the mean variance kept, so that components without content are not blown up. Raw vectors of a pretrained encoder
    share large common directions and have far more columns than a catalogue has items to learn from; in the whitened
    leading components a linear projection generalises to items that it has not seen.

    Args:
        rows: [N, F], the present ones only. rank: R, at most F. sample: rows looked at; seed: of the sample.

    Returns: mean [F], projection [F, R], float32 NumPy; components that the rows do not have are zeros.

    Example:
        >>> mean, projection = principal_whitening(np.array([[0.0, 2.0], [2.0, 2.0]]), 1)
        >>> mean.tolist(), np.abs(projection).round(2).tolist()
        ([1.0, 2.0], [[1.0], [0.0]])
    """
    width = rows.shape[1]
    if len(rows) > sample:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), sample, replace=False))]
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
