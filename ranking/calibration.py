"""From logits to probabilities that mean what they say: Platt scaling and isotonic regression, both monotone.

A calibration is a small JSON-able dict, fitted in NumPy on held-out users and applied in the graph with `keras.ops`:
`{"kind": "platt", "slope": a, "intercept": b}` or `{"kind": "isotonic", "x": [...], "y": [...]}`.
"""

from __future__ import annotations

import numpy as np
from keras import ops

MINIMUM_SLOPE = 1e-3


def fit_calibration(kind: str, logits, labels) -> dict:
    """Fits the named kind to flat logits [E] and labels [E] of 0 and 1.

    Raises:
        ValueError: if `kind` is unknown, or the arrays are empty, differ in length or are not finite.

    Example:
        >>> calibration = fit_calibration("platt", [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], [0, 0, 1, 0, 1, 1])
        >>> 0.0 < calibration["slope"] < 1.0, abs(calibration["intercept"]) < 1e-6
        (True, True)
    """
    values, truth = np.asarray(logits, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    if values.shape != truth.shape or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"logits, labels: must be finite, of one length and not empty, received shapes {values.shape}, "
            f"{truth.shape}; "
            "keep some users for calibration"
        )
    if kind == "platt":
        return fit_platt(values, truth)
    if kind == "isotonic":
        return fit_isotonic(values, truth)
    raise ValueError(f"kind must be 'platt' or 'isotonic', received {kind!r}")


def fit_platt(logits: np.ndarray, labels: np.ndarray, iterations: int = 50) -> dict:
    """Maximum likelihood of p = sigmoid(a s + b) by Newton's method, with a >= `MINIMUM_SLOPE` so that order is kept.

    Labels are smoothed to (P + 1) / (P + 2) and 1 / (Q + 2) for P positives and Q negatives, so that one class alone
    still has a finite answer.

    Paper: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    positives, total = labels.sum(), len(labels)
    smoothed = labels * (positives + 1) / (positives + 2) + (1 - labels) / (total - positives + 2)

    def negative_log_likelihood(a: float, b: float) -> float:
        scores = a * logits + b
        return float((np.logaddexp(0, scores) - smoothed * scores).sum())

    slope, intercept = 1.0, 0.0
    value = negative_log_likelihood(slope, intercept)
    for _ in range(iterations):
        probability = 0.5 * (1 + np.tanh((slope * logits + intercept) / 2))
        weight = probability * (1 - probability)
        error = probability - smoothed
        gradient = np.array([(error * logits).sum(), error.sum()])
        hessian = np.array(
            [[(weight * logits**2).sum(), (weight * logits).sum()], [(weight * logits).sum(), weight.sum()]]
        )
        step = np.linalg.solve(hessian + 1e-9 * max(1.0, np.trace(hessian)) * np.eye(2), gradient)
        size = 1.0
        # Halve until the likelihood gains: Newton overshoots where the sigmoid is flat.
        while size > 1e-8:
            asked = (max(MINIMUM_SLOPE, slope - size * step[0]), intercept - size * step[1])
            changed = negative_log_likelihood(*asked)
            if changed <= value:
                break
            size /= 2
        else:
            break
        gained, value = value - changed, changed
        slope, intercept = (float(part) for part in asked)
        if gained < 1e-10 * max(1.0, abs(value)):
            break
    return {"kind": "platt", "slope": float(slope), "intercept": float(intercept)}


def fit_isotonic(logits: np.ndarray, labels: np.ndarray) -> dict:
    """The non-decreasing function closest to the labels (pool adjacent violators), as knots to interpolate between.

    Each pool becomes one knot at its mean logit, so that between knots the function rises and ties are rare; each pool
    is smoothed by one pseudo-observation of the overall rate, and pools hold at least 1 % of the examples.

    Paper: Zadrozny & Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", KDD 2002.
    """
    order = np.argsort(logits, kind="stable")
    bins = np.array_split(order, max(1, min(100, len(order))))
    pools: list[list[float]] = []  # sum of logits, sum of labels, count
    for members in bins:
        pools.append([float(logits[members].sum()), float(labels[members].sum()), float(len(members))])
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [mine + other for mine, other in zip(pools[-1], last, strict=True)]
    overall = float(labels.mean())
    x = np.array([pool[0] / pool[2] for pool in pools])
    y = np.maximum.accumulate([(pool[1] + overall) / (pool[2] + 1) for pool in pools])
    distinct = np.concatenate([[True], np.diff(x) > 1e-6])
    return {"kind": "isotonic", "x": x[distinct].tolist(), "y": y[distinct].tolist()}


def apply_calibration(logits, calibration: dict):
    """Calibrated probabilities of logits of any shape; non-decreasing in the logit.

    Example:
        >>> probability = apply_calibration(np.array([0.0], "float32"), {"kind": "platt", "slope": 1.0, "intercept": 0.0})
        >>> float(probability[0])
        0.5
    """
    if calibration["kind"] == "platt":
        return ops.sigmoid(logits * calibration["slope"] + calibration["intercept"])
    x, y = np.asarray(calibration["x"], np.float32), np.asarray(calibration["y"], np.float32)
    # A sum of clipped ramps instead of a search: the same piecewise-linear function in every backend.
    result = ops.zeros_like(logits) + float(y[0])
    for left, right, low, high in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True):
        if high > low:
            result = result + ops.clip((logits - float(left)) / float(right - left), 0.0, 1.0) * float(high - low)
    return result
