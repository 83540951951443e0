"""The one score that orders candidates: a weighted sum of probabilities and of the standardised retrieval score."""

from __future__ import annotations


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
