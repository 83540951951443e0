"""Distillation: an ensemble of trained towers, joined into one pair of tables, teaches a single pair of towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from keras import ops

from towers.alignment import masked_mean
from towers.losses import MASKED_LOGIT, accidental_hits


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Vectors whose inner products are the scores to learn from.

    Attributes:
        items: [N + 1, T] float32. users: [user rows, T] float32; T need not be the student's width.
    """

    items: np.ndarray
    users: np.ndarray

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or self.users.ndim != 2 or self.items.shape[1] != self.users.shape[1]:
            raise ValueError(
                f"items, users: must be [N + 1, T] and [user rows, T] of one width, received {self.items.shape} and "
                f"{self.users.shape}"
            )


def join_teachers(teachers: Sequence[Teacher]) -> Teacher:
    """One teacher whose score is the mean of theirs: vectors side by side, divided by the root of their number.

    Snapshots of one training are the cheapest ensemble (Huang et al., *Snapshot Ensembles*, ICLR 2017).

    Example:
        >>> one = Teacher(np.array([[1.0], [2.0]]), np.array([[3.0]]))
        >>> both = join_teachers([one, Teacher(np.array([[0.0], [4.0]]), np.array([[1.0]]))])
        >>> (both.users @ both.items.T).round(6).tolist()
        [[1.5, 5.0]]

    Raises:
        ValueError: none, or of different catalogues.
    """
    sizes = {(len(teacher.items), len(teacher.users)) for teacher in teachers}
    if len(sizes) != 1:
        raise ValueError(f"teachers: must be at least one, all of one catalogue, received the sizes {sorted(sizes)}")
    root = len(teachers) ** 0.5
    items = np.concatenate([teacher.items for teacher in teachers], axis=1) / root
    users = np.concatenate([teacher.users for teacher in teachers], axis=1) / root
    return Teacher(items.astype(np.float32), users.astype(np.float32))


def distillation_loss(logits, teacher_scores, *, rows, weights, temperature: float):
    """The student's distribution over the batch's items must be the teacher's.

    Formula: `L = sum_i w_i H(softmax_j(s_ij / t), softmax_j(l_ij)) / sum_i w_i - (the teacher's own entropy)`, that is the
    Kullback-Leibler divergence, 0 where they agree; an item that stands in the batch twice counts once for everybody but
    its own row. Hinton et al. 2015; Tang and Wang, *Ranking Distillation*, KDD 2018.

    Shapes: logits [B, B] (student, without logQ), teacher_scores [B, B], rows [B] item rows, weights [B] -> scalar.

    Example:
        >>> scores = ops.array([[1.0, 0.0], [0.0, 2.0]])
        >>> float(distillation_loss(scores, scores, rows=ops.array([1, 2]), weights=ops.ones(2), temperature=1.0))
        0.0
    """
    out = ops.logical_or(accidental_hits(rows), _absent(weights))
    student = ops.log_softmax(ops.where(out, MASKED_LOGIT, logits), axis=-1)
    teacher = ops.log_softmax(ops.where(out, MASKED_LOGIT, teacher_scores / temperature), axis=-1)
    teacher = ops.stop_gradient(teacher)
    terms = ops.where(out, 0.0, ops.exp(teacher) * (teacher - student))
    return masked_mean(ops.sum(terms, axis=-1), weights)


def _absent(weights):
    """Columns of padding, never a row's own. [B] -> [B, B] bool"""
    own = ops.eye(ops.shape(weights)[0], dtype="bool")
    return ops.logical_and((weights == 0)[None, :], ops.logical_not(own))
