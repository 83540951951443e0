"""The ranker's losses over padded lists, as plain functions; a padded entry contributes nothing."""

from __future__ import annotations

from keras import ops

MASKED_LOGIT = -1e9
"""Takes the place of a padded entry's logit inside a softmax: finite, so that gradients are, and exp() of it is 0."""


def binary_cross_entropy_loss(logits, labels, mask):
    """Mean binary cross-entropy over the entries that exist.

        loss = sum_i mask_i * (softplus(s_i) - y_i * s_i) / max(1, sum_i mask_i)

    Args:
        logits: [B, K]. labels: [B, K] in [0, 1]. mask: bool [B, K], False = padding.

    Returns:
        A scalar; 0 if nothing exists.

    Example:
        >>> import numpy as np
        >>> loss = binary_cross_entropy_loss(np.zeros((1, 2), "float32"), np.ones((1, 2), "float32"), np.array([[True, False]]))
        >>> round(float(loss), 4)
        0.6931
    """
    kept = ops.cast(mask, logits.dtype)
    # Masked before the loss and after: an infinite logit in the padding must not reach the gradient as 0 * inf.
    safe = ops.where(mask, logits, ops.zeros_like(logits))
    entries = ops.softplus(safe) - ops.cast(labels, logits.dtype) * safe
    return ops.sum(entries * kept) / ops.maximum(ops.sum(kept), 1.0)


def listwise_softmax_loss(logits, labels, mask):
    """Softmax cross-entropy of each list against its normalised labels, averaged over the lists that have a positive.

        loss_b = - sum_i y_i / (sum_j y_j) * log( exp(s_i) / sum_{j exists} exp(s_j) )

    Paper: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet, top one), ICML 2007.

    Args:
        logits: [B, K]. labels: [B, K], non-negative. mask: bool [B, K], False = padding.

    Returns:
        A scalar; 0 if no list has a positive.

    Example:
        >>> import numpy as np
        >>> loss = listwise_softmax_loss(np.zeros((1, 4), "float32"), np.eye(4, dtype="float32")[:1], np.ones((1, 4), bool))
        >>> round(float(loss), 4)  # log 4
        1.3863
    """
    kept = ops.where(mask, ops.cast(labels, logits.dtype), ops.zeros_like(logits))
    safe = ops.where(mask, logits, ops.full_like(logits, MASKED_LOGIT))
    log_softmax = ops.where(mask, ops.log_softmax(safe, axis=-1), ops.zeros_like(logits))
    positives = ops.sum(kept, axis=-1)
    lists = -ops.sum(kept * log_softmax, axis=-1) / ops.maximum(positives, 1e-9)
    counted = ops.cast(positives > 0, logits.dtype)
    return ops.sum(lists * counted) / ops.maximum(ops.sum(counted), 1.0)
