"""Distillation from a ranker: the retrieval scores of a user's candidates are to be spread as the ranker spreads its own."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops

from towers.alignment import masked_mean
from towers.losses import MASKED_LOGIT


@dataclasses.dataclass(frozen=True)
class RankedLists:
    """What a ranker says of some candidates of every user.

    Attributes:
        rows: [user rows, K] int32 item rows, 0 = none. scores: [user rows, K] float32, the higher the better.
    """

    rows: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape != self.scores.shape:
            raise ValueError(
                f"rows, scores: must be [user rows, K] both, received {self.rows.shape} and {self.scores.shape}"
            )


def list_distillation_loss(student, teacher, *, mask, weights, temperature: float):
    """How far the student's distribution over each list is from the teacher's.

        loss = sum_b w_b KL(softmax(t_b / T) || softmax(s_b)) / sum_b w_b,  over the lists with at least two entries

    0 where both agree up to a constant a list. No gradient reaches the teacher.

    Paper: Reddi et al., "RankDistil: Knowledge Distillation for Ranking", AISTATS 2021; the softmax form is that of Hinton
    et al., "Distilling the Knowledge in a Neural Network", 2015.

    Shapes: student, teacher [B, K] scores of the same candidates, mask [B, K] bool (False = padding), weights [B] -> scalar.

    Example:
        >>> scores = ops.array([[1.0, 0.0, 3.0]])
        >>> mask, weights = ops.ones((1, 3), "bool"), ops.ones(1)
        >>> loss = list_distillation_loss(scores + 2.0, scores, mask=mask, weights=weights, temperature=1.0)
        >>> abs(float(loss)) < 1e-6
        True
    """
    told = _log_softmax(ops.stop_gradient(teacher) / temperature, mask)
    said = _log_softmax(student, mask)
    terms = ops.where(mask, ops.exp(told) * (told - said), ops.zeros_like(student))
    several = ops.cast(ops.sum(ops.cast(mask, "int32"), axis=-1) > 1, student.dtype)
    return masked_mean(ops.sum(terms, axis=-1), ops.cast(weights, student.dtype) * several)


def _log_softmax(scores, mask):
    """Over the entries that exist; what stands in the padding is never read."""
    return ops.log_softmax(ops.where(mask, scores, ops.full_like(scores, MASKED_LOGIT)), axis=-1)
