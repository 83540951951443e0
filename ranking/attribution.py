"""Shares of feature groups in a score, worked out from scores under masks of the groups."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops

METHODS = ("leave_one_out", "integrated_gradients")
STEPS = 4
"""P, of the path from the reference to the features as they are."""


@dataclasses.dataclass(frozen=True)
class AttributionPlan:
    """The masks under which a score is asked for, and how contributions follow from the answers.

        contribution_g = sum_s weights_gs f(masks_s)

    Every method here is such a sum, so that one batched call of the ranker answers it.

    Shapes: `masks` f32 [S, G] of values from 0 (the reference) to 1 (as it is); `weights` f32 [G, S].
    """

    masks: np.ndarray
    weights: np.ndarray


def attribution_plan(method: str, groups: int) -> AttributionPlan:
    """The plan of one method. With f(m) the score under a mask m, 1 all groups as they are, and e_g one group alone:

        leave_one_out:         c_g = f(1) - f(1 - e_g)                                        G + 1 masks
        integrated_gradients:  c_g = integral over a in [0, 1] of df/dm_g at m = a 1          2 G P masks

    The integral is taken by the midpoint rule over P = 4 steps, the derivative by a central difference half a step wide, so
    that no gradient is needed inside a served graph. Its contributions sum to f(1) - f(0) up to the error of the rule.
    Where f is additive over groups, both give each group's own term, exactly.

    Papers: Covert, Lundberg and Lee, "Explaining by Removing: A Unified Framework for Model Explanation", JMLR 2021;
    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017 (there over features; over the mask
    of groups it is the same integral, summed a group at a time).

    Args:
        method: one of `METHODS`. groups: G, at least 1.

    Raises:
        ValueError: for another method, or no group.

    Example:
        >>> plan = attribution_plan("leave_one_out", 2)
        >>> plan.masks.tolist()
        [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
        >>> (plan.weights @ np.array([5.0, 2.0, 4.0])).tolist()  # f(1) = 5, without the first 2, without the second 4
        [3.0, 1.0]
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, received {groups}")
    one = np.eye(groups, dtype=np.float32)
    if method == "leave_one_out":
        return AttributionPlan(
            np.concatenate([np.ones((1, groups), np.float32), 1.0 - one]),
            np.concatenate([np.ones((groups, 1), np.float32), -one], axis=1),
        )
    if method == "integrated_gradients":
        middles = (np.arange(STEPS, dtype=np.float32) + 0.5) / STEPS
        signs = np.broadcast_to(np.stack([one, -one]), (STEPS, 2, groups, groups))
        masks = middles[:, None, None, None] + signs * np.float32(0.5 / STEPS)
        # The mean over P steps of differences over a width of 1 / P: their plain sum.
        return AttributionPlan(masks.reshape(-1, groups), np.ascontiguousarray(signs.reshape(-1, groups).T))
    raise ValueError(f"method must be one of {METHODS}, received {method!r}")


def attribute(scores, plan: AttributionPlan):
    """Contributions from the scores under the plan's masks. [B, S, K] -> [B, K, G]"""
    return ops.einsum("gs,bsk->bkg", plan.weights, scores)


def normalised_shares(contributions):
    """Signed shares that sum to 1 in absolute value; all 0 where nothing contributes. [..., G] -> [..., G]

    Example:
        >>> np.asarray(normalised_shares(np.array([[3.0, -1.0], [0.0, 0.0]], np.float32))).tolist()
        [[0.75, -0.25], [0.0, 0.0]]
    """
    total = ops.sum(ops.abs(contributions), axis=-1, keepdims=True)
    return contributions / ops.where(total > 0, total, ops.ones_like(total))
