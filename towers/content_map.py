"""From an item's content to its vectors in a table: what stands in for items that nobody has chosen yet."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import scipy.linalg
from keras import ops

RIDGES = (0.1, 1.0, 10.0, 100.0)
MOST_COLUMNS = 64
"""Outputs by which a ridge is chosen."""
HELD_OUT = 0.1
MOST_ROWS = 50_000
"""Rows that a map is fitted to at most: more say nothing new of some thousand columns, and a million would not fit."""


@keras.saving.register_keras_serializable("triptych")
class ContentMap(keras.layers.Layer):
    """A linear map from the modalities that an item has to a vector.

    Formula: `y = sum_m present_m ((x_m - mean_m) W_m + b_m)`, x_m a video's frames averaged. Nothing present gives 0.

    Args:
        widths: {modality: F_m}. frames: {modality: T} of those whose vectors are T frames side by side.
        outputs: K.

    Shapes: features {modality: [B, F_m]}, present [B, M] bool in the order of `widths` -> [B, K].
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, frames: Mapping[str, int] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.outputs, self.frames = dict(widths), outputs, dict(frames or {})
        self.means, self.kernels, self.biases = [], [], []
        for name, width in self.widths.items():
            inputs = width // self.frames.get(name, 1)
            self.means.append(self.add_weight(shape=(inputs,), initializer="zeros", name=f"mean_{name}"))
            self.kernels.append(self.add_weight(shape=(inputs, outputs), initializer="zeros", name=f"kernel_{name}"))
            self.biases.append(self.add_weight(shape=(outputs,), initializer="zeros", name=f"bias_{name}"))
        self.built = True

    def call(self, features, present):
        total = ops.zeros((ops.shape(present)[0], self.outputs))
        for place, name in enumerate(self.widths):
            values = ops.cast(features[name], total.dtype)
            if name in self.frames:
                values = ops.mean(ops.reshape(values, (-1, self.frames[name], self.kernels[place].shape[0])), axis=1)
            mapped = ops.matmul(values - self.means[place], self.kernels[place]) + self.biases[place]
            total = total + ops.where(present[:, place : place + 1], mapped, 0.0)
        return total

    def get_config(self):
        settings = {"widths": self.widths, "outputs": self.outputs, "frames": self.frames}
        return {**super().get_config(), **settings}


def fit_content_map(
    features: Mapping[str, np.ndarray],
    present: np.ndarray,
    targets: np.ndarray,
    rows: np.ndarray,
    *,
    frames: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ContentMap:
    """Ridge regression from content to the vectors of items that have both.

    Each modality is centred and scaled to a total variance of 1, so that one ridge suits all; a tenth of the rows is
    held out to choose it, and the map is fitted again on all of them.

    Args:
        features: {modality: [N + 1, F_m]}, of which only the rows learned from are read. present: bool [N + 1, M].
        targets: [N + 1, K]. rows: [R] to learn from; of more than `MOST_ROWS` a sample by `seed`.
    """
    frames = dict(frames or {})
    if len(rows) > MOST_ROWS:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), MOST_ROWS, replace=False))]
    layer = ContentMap({name: table.shape[1] for name, table in features.items()}, targets.shape[1], frames)
    columns, means, scales = [], [], []
    for place, (name, table) in enumerate(features.items()):
        values = np.asarray(table[rows], np.float64)
        if name in frames:
            values = values.reshape(len(rows), frames[name], -1).mean(axis=1)
        there = present[rows, place].astype(np.float64)[:, None]
        mean = (values * there).sum(axis=0) / max(there.sum(), 1.0)
        values = (values - mean) * there
        scale = 1.0 / np.sqrt(max((values**2).sum() / max(there.sum(), 1.0), 1e-12))
        columns += [values * scale, there]
        means.append(mean)
        scales.append(scale)
    inputs, outputs = np.concatenate(columns, axis=1), np.asarray(targets[rows], np.float64)
    held = np.random.default_rng(seed).random(len(rows)) < HELD_OUT
    weights, start = fit_ridge(inputs, outputs, held), 0
    for place, (mean, scale) in enumerate(zip(means, scales, strict=True)):
        stop = start + len(mean)
        layer.means[place].assign(mean)
        layer.kernels[place].assign(weights[start:stop] * scale)
        layer.biases[place].assign(weights[stop])
        start = stop + 1
    return layer


def fit_ridge(inputs: np.ndarray, outputs: np.ndarray, held: np.ndarray) -> np.ndarray:
    """`(X'X + ridge I)^-1 X'Y` with the ridge, of `RIDGES`, that tells the rows `held` best when fitted to the others.

    What all of these fits have in common, the smaller of the two Gram matrices, is computed once: the rows' own (X X', of which
    each fit takes a part), or the columns' (X'X, from which the held rows' share is taken). The ridge is chosen by
    `MOST_COLUMNS` of the outputs at most, evenly spaced: a solution costs more than its factor where there are many.

    Shapes: inputs [R, F], outputs [R, K], held bool [R] -> [F, K].

    Example:
        >>> x, held = np.arange(-20.0, 20.0)[:, None], np.arange(40) % 10 == 0
        >>> fit_ridge(x, 2 * x, held).round(2).tolist()  # nothing is noise, so the smallest ridge is best
        [[2.0]]
    """
    if not held.any() or held.all():
        return solve_ridge(inputs, outputs, RIDGES[1])
    rows, width = inputs.shape
    own, rest = inputs[held], ~held
    if rows < width:
        gram = inputs @ inputs.T
        others, across, moment = gram[np.ix_(rest, rest)], gram[np.ix_(held, rest)], outputs[rest]
    else:
        gram, across = inputs.T @ inputs, own
        others, moment = gram - own.T @ own, inputs[rest].T @ outputs[rest]
    some = slice(None, None, -(-outputs.shape[1] // MOST_COLUMNS))
    wanted, known = outputs[held][:, some], moment[:, some]
    errors = {ridge: ((across @ _solve(others, ridge, known) - wanted) ** 2).sum() for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    if rows < width:
        return inputs.T @ _solve(gram, best, outputs)
    return _solve(gram, best, moment + own.T @ outputs[held])


def solve_ridge(inputs: np.ndarray, outputs: np.ndarray, ridge: float) -> np.ndarray:
    """`(X'X + ridge I)^-1 X'Y`, by whichever of the two Gram matrices is smaller.

    Example:
        >>> solve_ridge(np.ones((3, 1)), np.array([[2.0], [4.0], [2.0]]), 1.0).tolist()
        [[2.0]]
    """
    rows, width = inputs.shape
    if rows < width:
        return inputs.T @ _solve(inputs @ inputs.T, ridge, outputs)
    return _solve(inputs.T @ inputs, ridge, inputs.T @ outputs)


def _solve(gram: np.ndarray, ridge: float, moment: np.ndarray) -> np.ndarray:
    """`(G + ridge I)^-1 M` of a Gram matrix: positive definite, hence by Cholesky's factor, half of the work of any other."""
    ridged = gram.copy()
    np.fill_diagonal(ridged, np.diagonal(gram) + ridge)
    factor = scipy.linalg.cho_factor(ridged, lower=True, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, moment, check_finite=False)
