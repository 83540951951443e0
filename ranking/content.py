"""Content of items as unit tokens, one per modality: raw vectors, whitened at first and learned from there."""

from __future__ import annotations

from collections.abc import Collection

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.tables import ContentTable

SAMPLE = 20_000
"""Rows of a table by which it is centred and whitened."""


def sampled_mean(table: np.ndarray, present: np.ndarray, seed: int):
    """Some rows of a content table, and their mean, by which they are centred.

    Args:
        table: [N + 1, F]. present: bool [N + 1]. seed: of the sample.

    Returns:
        rows f64 [R, F], mean f64 [F]; zeros where fewer than two rows are present.
    """
    rows = np.flatnonzero(present)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    values = np.asarray(table[rows], np.float32).astype(np.float64)
    return values, values.mean(axis=0) if len(rows) > 1 else np.zeros(table.shape[1])


def principal_projection(table: np.ndarray, present: np.ndarray, width: int, seed: int):
    """Mean and whitening projection [F, width] of a content table: where a learned projection sensibly starts.

    Raw vectors of one modality often share a large common direction, which makes every cosine nearly 1; in the whitened
    space of the leading principal components cosines tell items apart from the first step on.

    Args:
        table: [N + 1, F]. present: bool [N + 1]. width: D. seed: see `sampled_mean`.

    Returns:
        mean [F], projection [F, D] f32; components beyond F are zero.
    """
    values, mean = sampled_mean(table, present, seed)
    projection = np.zeros((table.shape[1], width), np.float32)
    if len(values) < 2:
        return mean.astype(np.float32), projection
    spread, directions = np.linalg.eigh(np.cov(values - mean, rowvar=False).reshape(table.shape[1], -1))
    kept = min(width, table.shape[1])
    spread, directions = spread[::-1][:kept], directions[:, ::-1][:, :kept]
    # Half whitening: leading components keep some of their weight, and noise in the last ones is not blown up.
    projection[:, :kept] = directions / np.sqrt(np.sqrt(np.maximum(spread, 1e-12) * max(spread[0], 1e-12)))
    return mean.astype(np.float32), projection


def unit_token(values, mean, kernel):
    """`(x - mean) W`, of length 1: content as the ranker reads it. Shapes: values [B, F], mean [F], kernel [F, D] -> [B, D]."""
    projected = ops.matmul(values - mean, kernel)
    return projected / ops.sqrt(ops.sum(ops.square(projected), axis=-1, keepdims=True) + 1e-8)


class ContentProjection(keras.layers.Layer):
    """Projects the raw vectors of some items to unit tokens, one per modality.

        token_m = normalise((x_m - mean_m) W_m), zeros where modality m is absent

    Args:
        spec, config: which modalities, and D.

    Shapes: `call(items [U]) -> tokens [U, M, D], present [U, M]` (float 0 or 1).
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        rows, width = spec.schema.item_rows, config.token_width
        self.modalities = tuple(spec.modalities)
        self.tables = [
            ContentTable(rows, size, "float32" if name == "behaviour" else "float16", name=f"{name}_table")
            for name, size in spec.modalities.items()
        ]
        self.present = ContentTable(rows, len(self.modalities), name="present_table")
        self.means, self.kernels = [], []
        for name, size in spec.modalities.items():
            self.means.append(self.add_weight(shape=(size,), initializer="zeros", trainable=False, name=f"{name}_mean"))
            self.kernels.append(self.add_weight(shape=(size, width), initializer="zeros", name=f"{name}_kernel"))
        self.seed, self.width = config.seed, width
        self.built = True

    def assign(self, tables: dict[str, np.ndarray], present: np.ndarray, learned: Collection[str] = ()) -> None:
        """Fills the raw tables ({modality: [N + 1, F_m]}, present bool [N + 1, M]), centres them, and starts the projections
        from them; those of the `learned` modalities are left for somebody else to fill."""
        for axis, (name, layer) in enumerate(zip(self.modalities, self.tables, strict=True)):
            layer.table.assign(np.asarray(tables[name]).astype(layer.table.dtype))
            if name in learned:
                self.means[axis].assign(sampled_mean(tables[name], present[:, axis], self.seed)[1])
                continue
            mean, projection = principal_projection(tables[name], present[:, axis], self.width, self.seed)
            self.means[axis].assign(mean)
            self.kernels[axis].assign(projection)
        self.present.table.assign(np.asarray(present).astype(self.present.table.dtype))

    def call(self, items):
        present = self.present(items)
        tokens = []
        for axis, layer in enumerate(self.tables):
            tokens.append(unit_token(layer(items), self.means[axis], self.kernels[axis]) * present[:, axis : axis + 1])
        if not tokens:  # a catalogue without content, whose embeddings are not read either
            return ops.zeros((ops.shape(items)[0], 0, self.width)), present
        return ops.stack(tokens, axis=1), present
