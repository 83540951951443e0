"""Metrics of predicted probabilities against what happened: AUC, log loss, calibration error and its curve."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ReliabilityCurve(NamedTuple):
    """Points of a reliability diagram, one per non-empty bin: mean predicted, observed frequency, examples."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a random positive outscores a random negative, ties counting one half; NaN with one class only.

    The Mann-Whitney form: (Σ ranks of positives − P(P + 1)/2) / (P · Q), with average ranks for ties.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
        0.875
    """
    truth, values = _paired(labels, scores)
    positives, negatives = int(truth.sum()), int((1 - truth).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    average_rank = np.cumsum(sizes) - (sizes - 1) / 2
    return float((average_rank[inverse] @ truth - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(labels: ArrayLike, probabilities: ArrayLike, *, floor: float = 1e-7) -> float:
    """Mean binary cross-entropy −[y ln p + (1 − y) ln(1 − p)] in nats, p kept within [floor, 1 − floor].

    Example:
        >>> round(log_loss([1, 0], [0.8, 0.4]), 4)
        0.367
    """
    truth, chance = _probabilities(labels, probabilities)
    chance = np.clip(chance, floor, 1 - floor)
    return float(-np.mean(truth * np.log(chance) + (1 - truth) * np.log1p(-chance)))


def reliability_curve(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> ReliabilityCurve:
    """Predicted against observed frequency in bins of equal mass: each holds about n / bins examples.

    Bins end at quantiles of the predictions, and equal predictions always share one bin, so the order of the input does
    not matter; with many ties there are fewer than `bins` bins.

    Example:
        >>> curve = reliability_curve([0, 1, 1, 1], [0.2, 0.2, 0.9, 0.9], bins=2)
        >>> curve.predicted.tolist(), curve.observed.tolist(), curve.counts.tolist()
        ([0.2, 0.9], [0.5, 1.0], [2, 2])
    """
    truth, chance = _probabilities(labels, probabilities)
    if bins < 1:
        raise ValueError(f"bins: must be >= 1, received {bins}; 15 is usual")
    starts = np.sort(chance)[np.arange(1, bins) * chance.size // bins]
    which = np.searchsorted(np.unique(starts), chance, side="right")
    counts = np.bincount(which)
    filled = counts > 0
    predicted, observed = np.bincount(which, weights=chance)[filled], np.bincount(which, weights=truth)[filled]
    return ReliabilityCurve(predicted / counts[filled], observed / counts[filled], counts[filled].astype(np.int64))


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Σ_b (n_b / n) · |observed_b − predicted_b| over equal-mass bins; `reliability_curve` has the points.

    Naeini et al. (2015), https://doi.org/10.1609/aaai.v29i1.9602; equal mass as in Nixon et al. (2019),
    https://arxiv.org/abs/1904.01685.

    Example: 0.2 said where half happen, 0.9 said where all do.
        >>> round(expected_calibration_error([0, 1, 1, 1], [0.2, 0.2, 0.9, 0.9], bins=2), 3)
        0.2
    """
    curve = reliability_curve(labels, probabilities, bins)
    return float(np.abs(curve.observed - curve.predicted) @ curve.counts / curve.counts.sum())


def _paired(labels: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    truth, given = np.asarray(labels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != given.shape or truth.size == 0:
        raise ValueError(f"labels, values: must be flat, of one length > 0, received {truth.shape}, {given.shape}")
    if not np.isin(truth, (0.0, 1.0)).all():
        raise ValueError("labels: must be 0 or 1, received other values; threshold them first")
    if not np.isfinite(given).all():
        raise ValueError(f"values: must be finite, received {np.count_nonzero(~np.isfinite(given))} that are not")
    return truth, given


def _probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    truth, chance = _paired(labels, probabilities)
    if chance.min() < 0 or chance.max() > 1:
        raise ValueError(f"probabilities: must lie in [0, 1], received {chance.min()} to {chance.max()}; use a sigmoid")
    return truth, chance
