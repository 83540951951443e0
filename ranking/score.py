"""The one score that orders candidates: a weighted sum of probabilities and of the standardised retrieval score."""

from __future__ import annotations

from typing import Any

from keras import ops as keras_ops

BENT_BELOW, PADDING = -0.9, -1.0
"""From where on scores are bent, and what they never reach: the score of what does not exist."""


def weighted_score(probabilities, weights: dict[str, float], blend: float, standardised):
    """What candidates are ordered by.

        score = sum_h w_h p_h / sum_h |w_h| + blend * z

    Args:
        probabilities: {head: array of any one shape}, calibrated. weights: head -> w_h, negative for what should count
            against an item. blend: weight of z. standardised: z, the standardised retrieval score, of the same shape.

    Returns: an array of that shape, of the kind that was given (NumPy, or a backend's tensors).

    Example:
        >>> import numpy as np
        >>> given = {"click": np.array([0.5]), "skip": np.array([0.1])}
        >>> weighted_score(given, {"click": 3.0, "skip": -1.0}, 0.1, np.array([2.0])).round(3).tolist()
        [0.55]
    """
    total = sum(abs(weight) for weight in weights.values()) or 1.0
    score = blend * standardised
    for head, weight in weights.items():
        if weight:
            score = score + probabilities[head] * (weight / total)
    return score


def above_padding(score: Any, *, ops: Any = keras_ops) -> Any:
    """Scores as they are, but those below -0.9 bent so that they stay above -1 and in their order.

        s' = -1 + h^2 / (h + below),  h = 0.1,  below = -0.9 - s;   of the slope 1 at -0.9, as s is

    A retrieval score that weighs much, or heads that count against an item, take scores below -1, where what does not exist
    stands; held at one value they would tie.

    Args:
        score: f32 of any shape.

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> above_padding(np.array([0.3, -0.8, -1.0, -8.0]), ops=numpy_ops).round(4).tolist()
        [0.3, -0.8, -0.95, -0.9986]
    """
    height = BENT_BELOW - PADDING
    below = ops.maximum(BENT_BELOW - score, 0.0)
    return ops.where(score < BENT_BELOW, PADDING + height * height / (height + below), score)
