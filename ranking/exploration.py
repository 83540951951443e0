"""Exploration whose probabilities are known: epsilon-greedy and Thompson sampling of one place at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops as keras_ops

POINTS = 64
"""Of the grid on which the best of uncertain scores is looked for."""
REACH = 4.0
"""Standard deviations around the means that the grid covers: below it the best draw is once in 30,000 times."""


def normal_cdf(x: Any, *, ops: Any = keras_ops) -> Any:
    """The normal distribution function to within 0.0005: (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> normal_cdf(np.array([0.0, 1.0, -2.0]), ops=numpy_ops).round(3).tolist()
        [0.5, 0.841, 0.023]
    """
    x = ops.clip(x, -8.0, 8.0)
    return 0.5 * (1.0 + ops.tanh(float(np.sqrt(2 / np.pi)) * (x + 0.044715 * x * x * x)))


def posterior_std(probability: Any, evidence: Any, *, ops: Any = keras_ops) -> Any:
    """Standard deviation of a probability of which `evidence` events speak: sqrt(p (1 - p) / (1 + n)).

    That of a Beta posterior whose prior weighs as much as one event; Chapelle & Li (2011).

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> posterior_std(np.array([0.5, 0.5]), np.array([0.0, 24.0]), ops=numpy_ops).tolist()
        [0.5, 0.1]
    """
    p = ops.clip(probability, 0.0, 1.0)
    return ops.sqrt(p * (1.0 - p) / (1.0 + evidence))


def thompson_probabilities(mean: Any, deviation: Any, allowed: Any, *, ops: Any = keras_ops) -> Any:
    """The probability that each candidate's draw is the highest: what Thompson sampling would choose, without drawing.

        P(i) = sum_g [Phi_i(x_{g+1}) - Phi_i(x_g)] prod_{j != i} Phi_j((x_g + x_{g+1}) / 2),  normalised

    on a grid x; scores are independent normal variables. A policy that draws from these numbers knows its propensities
    exactly, however coarse the grid is.

    Shapes: mean, deviation f32 [B, K], allowed bool [B, K] -> f32 [B, K]; sums to 1, or to 0 where nothing is allowed.

    Example: equal means, and one who is certain between two who are not.
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> certain = np.array([[1.0, 1.0, 0.0]]), np.array([[0.2, 0.2, 0.0]]), np.array([[True, True, True]])
        >>> thompson_probabilities(*certain, ops=numpy_ops).round(3).tolist()
        [[0.5, 0.5, 0.0]]
    """
    deviation = ops.maximum(deviation, 1e-6)
    low = ops.max(ops.where(allowed, mean - REACH * deviation, -np.inf), axis=1, keepdims=True)
    high = ops.max(ops.where(allowed, mean + REACH * deviation, -np.inf), axis=1, keepdims=True)
    some = ops.any(allowed, axis=1, keepdims=True)
    low, high = ops.where(some, low, ops.zeros_like(low)), ops.where(some, high, ops.ones_like(high))
    # Fine where the certain ones end, coarse where only the uncertain ones reach.
    steps = ops.square(ops.arange(POINTS + 1, dtype="float32") / POINTS)
    edges = low[:, :, None] + (high - low)[:, :, None] * steps  # [B, 1, G + 1]
    middle = (edges[:, :, 1:] + edges[:, :, :-1]) / 2
    # Padding may carry the lowest float, which must not meet a division.
    mean = ops.where(allowed, mean, low)
    at = lambda x: normal_cdf((x - mean[:, :, None]) / deviation[:, :, None], ops=ops)  # noqa: E731
    reached = at(edges)
    below = ops.log(ops.maximum(at(middle), 1e-12)) * ops.cast(allowed, "float32")[:, :, None]
    others = ops.exp(ops.sum(below, axis=1, keepdims=True) - below)
    chance = ops.sum((reached[:, :, 1:] - reached[:, :, :-1]) * others, axis=2) * ops.cast(allowed, "float32")
    return chance / ops.maximum(ops.sum(chance, axis=1, keepdims=True), 1e-30)


def epsilon_greedy(probabilities: Any, allowed: Any, epsilon: Any, *, ops: Any = keras_ops) -> Any:
    """`(1 - epsilon) p + epsilon / m` over the m allowed candidates.

    Shapes: probabilities f32 [B, K], allowed bool [B, K], epsilon [B, 1] or [1, 1] -> f32 [B, K].

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> greedy, allowed = np.array([[1.0, 0.0, 0.0]]), np.array([[True, True, False]])
        >>> epsilon_greedy(greedy, allowed, np.array([[0.1]]), ops=numpy_ops).round(3).tolist()
        [[0.95, 0.05, 0.0]]
    """
    open_to = ops.cast(allowed, "float32")
    even = open_to / ops.maximum(ops.sum(open_to, axis=1, keepdims=True), 1.0)
    return (1.0 - epsilon) * probabilities + epsilon * even


def draw(probabilities: Any, uniform: Any, *, ops: Any = keras_ops) -> Any:
    """The place that a uniform number in [0, 1) falls on, by the inverse of the distribution function.

    Shapes: probabilities f32 [B, K], of any positive sum; uniform f32 [B] -> int32 [B]; never a place of probability 0.

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> draw(np.array([[0.5, 0.0, 0.5]] * 3), np.array([0.0, 0.499, 0.5]), ops=numpy_ops).tolist()
        [0, 0, 2]
    """
    reached = ops.cumsum(probabilities, axis=1)
    # The sum as the running one ends, and a number below it: rounding must not fall off the end.
    wanted = ops.minimum(uniform, 0.9999999)[:, None] * reached[:, -1:]
    return ops.cast(ops.argmax(ops.cast(reached > wanted, "int32"), axis=1), "int32")
