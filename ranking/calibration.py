"""From logits to probabilities that mean what they say: Platt scaling and isotonic regression, both monotone.

A calibration is a small JSON-able dict, fitted in NumPy on held-out users and applied in the graph with `keras.ops`:
`{"kind": "platt", "slope": a, "intercept": b}`, `{"kind": "isotonic", "x": [...], "y": [...]}`, or, where domains differ,
`{"kind": "by_domain", "otherwise": calibration, "domains": {"3": calibration, ...}}` (see `ranking.domain_calibration`).
"""

from __future__ import annotations

import numpy as np
from keras import ops

KINDS = ("platt", "isotonic")
MINIMUM_SLOPE = 1e-3
END_LOGITS, END_SHARE = 20.0, 0.01
"""How far an isotonic calibration still moves beyond its outermost knots, and by what share of the way to 0 or 1."""


def fit_calibration(kind: str, logits, labels, users=None) -> dict:
    """Fits the named kind to flat logits [E] and labels [E] in [0, 1].

    Both kinds minimise the log loss, Platt scaling among sigmoids and isotonic regression among all non-decreasing
    functions. `kind` "best" takes the one with the lower log loss on users that it was not fitted to: it is fitted on
    each half of them and judged on the other, and then fitted to all.

    Args:
        kind: "platt", "isotonic" or "best". users: int [E], needed by "best" alone.

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
    if kind == "best" and users is not None:
        return fit_calibration(best_kind(values, truth, np.asarray(users)), values, truth)
    raise ValueError(f"kind must be 'platt', 'isotonic' or (with users) 'best', received {kind!r}")


def best_kind(logits: np.ndarray, labels: np.ndarray, users: np.ndarray) -> str:
    """The kind with the lower log loss [E] when fitted to every other user and judged on the rest; Platt if they tie."""
    half = np.unique(users, return_inverse=True)[1].reshape(-1) % 2 == 0
    if half.all():
        return "platt"
    losses = {}
    for kind in KINDS:
        parts = []
        for judged in (half, ~half):
            fitted = fit_calibration(kind, logits[~judged], labels[~judged])
            probability = np.clip(np.asarray(apply_calibration(logits[judged], fitted), np.float64), 1e-12, 1 - 1e-12)
            truth = labels[judged]
            parts.append(-(truth * np.log(probability) + (1 - truth) * np.log(1 - probability)))
        losses[kind] = float(np.concatenate(parts).mean())
    return min(KINDS, key=lambda kind: losses[kind])


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> dict:
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
    for _ in range(50):
        probability = 0.5 * (1 + np.tanh((slope * logits + intercept) / 2))
        weight = probability * (1 - probability)
        error = probability - smoothed
        gradient = np.array([(error * logits).sum(), error.sum()])
        hessian = np.array(
            [[(weight * logits**2).sum(), (weight * logits).sum()], [(weight * logits).sum(), weight.sum()]]
        )
        step = np.linalg.solve(hessian + 1e-9 * max(1.0, np.trace(hessian)) * np.eye(2), gradient)
        size = 1.0
        # A step beyond the smallest slope ends there, and at the smallest slope the intercept alone moves: a joint step
        # of which only the slope is held back goes towards the intercept of another slope, and stalls off the rate.
        if step[0] > 0 and slope - MINIMUM_SLOPE < 1e-9:
            step = np.array([0.0, gradient[1] / max(hessian[1, 1], 1e-9)])
        elif step[0] > slope - MINIMUM_SLOPE:
            step *= (slope - MINIMUM_SLOPE) / step[0]
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
    is smoothed by one pseudo-observation of the overall rate, and pools hold at least 1 % of the examples. Beyond the
    outermost pools nothing was observed, but their best candidates must not tie: there it goes on, hardly rising.

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
    x, y = x[distinct], y[distinct]
    x = np.concatenate([[x[0] - END_LOGITS], x, [x[-1] + END_LOGITS]])
    y = np.concatenate([[y[0] * (1 - END_SHARE)], y, [y[-1] + END_SHARE * (1 - y[-1])]])
    return {"kind": "isotonic", "x": x.tolist(), "y": y.tolist()}


def apply_calibration(logits, calibration: dict, domain=None):
    """Calibrated probabilities of logits of any shape; non-decreasing in the logit.

    Args:
        logits: float. domain: codes of the same shape, needed by the kind "by_domain" alone.

    Raises:
        ValueError: a calibration by domain without domains.

    Example:
        >>> probability = apply_calibration(np.array([0.0], "float32"), {"kind": "platt", "slope": 1.0, "intercept": 0.0})
        >>> float(probability[0])
        0.5
    """
    if calibration["kind"] != "by_domain":
        return apply_table(logits, calibration["kind"], calibration_table(calibration))
    if domain is None:
        raise ValueError("domain: a calibration by domain needs the candidates' codes, received None")
    count = max((int(code) for code in calibration["domains"]), default=0) + 2
    table = calibration_table(calibration, count)
    return apply_table(logits, kind_of(calibration), table, ops.clip(domain, 0, count - 1))


def kind_of(calibration: dict) -> str:
    """The kind that a calibration is of, in every domain."""
    return calibration["otherwise"]["kind"] if calibration["kind"] == "by_domain" else calibration["kind"]


def calibration_table(calibration: dict, domains: int = 1) -> np.ndarray:
    """A calibration as numbers, the same for any of its kind: f32 [G, P], a line a domain.

    P = 2, slope and intercept, for Platt scaling; for an isotonic calibration the value at its start, and of every ramp
    where it begins, how wide and how high it is.

    Args:
        domains: G, domains 0 to G - 1; one without a calibration of its own has that of all.

    Example:
        >>> platt = {"kind": "platt", "slope": 2.0, "intercept": 0.5}
        >>> calibration_table({"kind": "by_domain", "otherwise": platt, "domains": {"1": {**platt, "slope": 3.0}}}, 3).tolist()
        [[2.0, 0.5], [3.0, 0.5], [2.0, 0.5]]
    """
    otherwise, own = calibration, {}
    if calibration["kind"] == "by_domain":
        otherwise, own = calibration["otherwise"], calibration["domains"]
    parts = [own.get(str(domain), otherwise) for domain in range(domains)]
    if otherwise["kind"] == "platt":
        return np.array([[part["slope"], part["intercept"]] for part in parts], np.float32)
    return np.concatenate(_ramps(parts), axis=1)


def apply_table(logits, kind: str, table, domain=None):
    """Calibrated probabilities of logits of any shape by the table [G, P] of a calibration.

    Args:
        kind: see `kind_of`. domain: codes of the logits' shape below G; None = the first line counts for all.
    """
    pick = lambda values: values[0] if domain is None else ops.take(values, domain, axis=0)  # noqa: E731
    if kind == "platt":
        return ops.sigmoid(logits * pick(table[:, 0]) + pick(table[:, 1]))
    ramps = (table.shape[1] - 1) // 3
    left, width, rise = (pick(table[:, 1 + part * ramps : 1 + (part + 1) * ramps]) for part in range(3))
    # A sum of clipped ramps instead of a search: the same piecewise-linear function in every backend.
    return pick(table[:, 0]) + ops.sum(ops.clip((logits[..., None] - left) / width, 0.0, 1.0) * rise, axis=-1)


def _ramps(parts: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Isotonic calibrations as a start [G, 1] and ramps: where they begin, how wide and how high they are, each [G, R]."""
    knots = max(2, *(len(part["x"]) for part in parts))
    x, y = (
        np.stack([np.pad(np.asarray(part[name], np.float32), (0, knots - len(part[name])), "edge") for part in parts])
        for name in ("x", "y")
    )
    return y[:, :1], x[:, :-1], np.maximum(np.diff(x), 1e-6), np.diff(y)
