"""Fairness of exposure: least shares of a group in every prefix, boosts that reach a share, and what a group gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops as keras_ops

from ranking.adjustments import score_range
from ranking.array_ops import numpy_ops

STEPS = 40
"""Of a bisection; the boost is then known to 1e-12 of its range."""
GREATEST_BOOST = 10.0
"""Boosts looked at, in units of each request's range of scores."""
FLOOR_STEPS = 8
"""Of a bisection of floors."""


def discounts(k: int) -> np.ndarray:
    """Attention of each place, 1 / log2(1 + place), [k]."""
    return 1.0 / np.log2(np.arange(2, k + 2))


def least_protected(share: Any, significance: Any, k: Any, *, ops: Any = keras_ops) -> Any:
    """How many of the first 1, 2, ..., k items must be of the protected group.

        m(p) = smallest m with F(m; p, share) > significance,  F the binomial distribution function

    the ranked group fairness of FA*IR: below m(p) the group's number is what a fair coin would hardly give. The paper's
    correction for testing k prefixes at once is left to the choice of the significance. Zehlike et al. (CIKM 2017),
    https://arxiv.org/abs/1706.06368.

    Args:
        share: [B, 1] or [1, 1], the share that a fair page has; may differ between users' groups.
        significance: [1, 1] or [B, 1]; 0.1 is usual for a test of pages that are there; 0.5 asks for about the share itself.
        k: length of the page; a tensor where the page's length is an input of a graph.

    Returns: f32 [B, k], never falling, rising by at most 1 a place.

    Example: Table 2 of the paper, share 0.5 and significance 0.1.
        >>> from ranking.array_ops import numpy_ops
        >>> least_protected(np.array([[0.5]]), np.array([[0.1]]), 12, ops=numpy_ops)[0].astype(int).tolist()
        [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4]
    """
    share = ops.clip(ops.cast(share, "float32"), 0.0, 1.0)[..., None]  # [B, 1, 1]
    number = ops.arange(k + 1, dtype="float32")
    factorial = ops.cumsum(ops.log(ops.maximum(number, 1.0)), axis=0)  # ln(n!)
    prefix, some = number[1:][:, None], number[None, :]
    left = ops.maximum(prefix - some, 0.0)
    ways = factorial[1:][:, None] - factorial[None, :] - ops.take(factorial, ops.cast(left, "int32"), axis=0)
    odds = some * ops.log(ops.maximum(share, 1e-30)) + left * ops.log(ops.maximum(1.0 - share, 1e-30))
    mass = ops.where(some <= prefix, ops.exp(ways + odds), 0.0)
    too_few = ops.logical_and(ops.cumsum(mass, axis=2) <= significance[..., None], some <= prefix)
    return ops.sum(ops.cast(too_few, "float32"), axis=2)


def find_group_boost(
    scores: np.ndarray, kept: np.ndarray, protected: np.ndarray, share: float, k: int
) -> float:
    """The least boost at which a group gets a share of the exposure of all first k places together.

    Maximal utility under a bound on a group's exposure is a linear programme over doubly stochastic matrices; its
    Lagrangian is sorting by `score + boost * protected`, and as exposure rises with the boost, the multiplier is found
    by bisection. The bound holds over the requests together, not in each one. Singh & Joachims (KDD 2018),
    https://arxiv.org/abs/1802.07281; over many requests as in Biega et al. (SIGIR 2018).

    Args:
        scores: [Q, K]. kept: bool [Q, K]. protected: bool [Q, K]. share: in [0, 1]. k: places of a page.

    Returns: the boost, in units of a request's range of scores; `GREATEST_BOOST` where even that is not enough.

    Raises:
        ValueError: share out of bounds.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: must lie in [0, 1], received {share}; it is a share of the exposure")
    if exposure_share(scores, kept, protected, k, 0.0) >= share:
        return 0.0
    low, high = 0.0, GREATEST_BOOST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if exposure_share(scores, kept, protected, k, middle) >= share else (middle, high)
    return high


def exposure_share(scores: np.ndarray, kept: np.ndarray, protected: np.ndarray, k: int, boost: float) -> float:
    """Share of the exposure of all first k places that a group gets when it is boosted; NaN where nothing is shown."""
    boosted = np.where(kept, scores + boost * score_range(scores, kept, ops=numpy_ops) * protected, -np.inf)
    order = np.argsort(-boosted, axis=1, kind="stable")[:, :k]
    shown = np.take_along_axis(kept, order, axis=1) * discounts(order.shape[1])
    total = shown.sum()
    return float((shown * np.take_along_axis(protected, order, axis=1)).sum() / total) if total else float("nan")


def find_floor(share_at: Callable[[float], float], target: float) -> float:
    """The floor whose share of exposure comes nearest to a target, 0 where there is enough without one.

    A floor lifts the pages below it and leaves the others as they are, so the share of all pages together rises above the
    floor itself: the floor that gives a group of users an average share is lower than that share, and is searched for.

    Args:
        share_at: the share that pages have under a floor (`group_share`), rising with it. target: in [0, 1].

    Example:
        >>> find_floor(lambda floor: max(0.3, 0.2 + floor / 2), target=0.4)
        0.3984375
    """
    before = share_at(0.0)
    if not before < target:
        return 0.0
    low, high, shares = 0.0, 1.0, {0.0: before, 1.0: share_at(1.0)}
    for _ in range(FLOOR_STEPS):
        middle = (low + high) / 2
        shares[middle] = share_at(middle)
        low, high = (low, middle) if shares[middle] >= target else (middle, high)
    return min((low, high), key=lambda floor: abs(shares[floor] - target))
