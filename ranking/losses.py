"""The ranker's losses over padded lists, as plain functions; a padded entry contributes nothing.

Everywhere `weights` [B, K] says how much an entry counts, such as an inverse propensity: with 0 it teaches nothing, None is
1 for all, and only their proportions matter, not their scale.
"""

from __future__ import annotations

from keras import ops

MASKED_LOGIT = -1e9
"""Takes the place of a padded entry's logit inside a softmax: finite, so that gradients are, and exp() of it is 0."""


def binary_cross_entropy_loss(logits, labels, mask, weights=None):
    """Mean binary cross-entropy over the entries that exist.

        loss = sum_i w_i * mask_i * (softplus(s_i) - y_i * s_i) / sum_i w_i * mask_i

    Args:
        logits: [B, K]. labels: [B, K] in [0, 1]. mask: bool [B, K], False = padding. weights: [B, K] or None.

    Returns:
        A scalar; 0 if nothing exists.

    Example:
        >>> import numpy as np
        >>> loss = binary_cross_entropy_loss(np.zeros((1, 2), "float32"), np.ones((1, 2), "float32"), np.array([[True, False]]))
        >>> round(float(loss), 4)
        0.6931
    """
    kept = _counted(logits, mask, weights)
    # Masked before the loss and after: an infinite logit in the padding must not reach the gradient as 0 * inf.
    safe = ops.where(mask, logits, ops.zeros_like(logits))
    entries = ops.softplus(safe) - ops.cast(labels, logits.dtype) * safe
    return _mean(ops.sum(entries * kept), ops.sum(kept))


def listwise_softmax_loss(logits, labels, mask, weights=None):
    """Softmax cross-entropy of each list against its normalised labels, averaged over the lists that have a positive.

        loss_b = - sum_i w_i y_i / (sum_j y_j) * log( exp(s_i) / sum_{j exists} exp(s_j) )
        loss = sum_b loss_b / sum_b (sum_i w_i y_i / sum_j y_j)

    so that positives, and with them their lists, count by their weights. With inverse propensities as weights the loss
    is that of clicks on all that could have been shown (Joachims et al., WSDM 2017).

    Paper: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet, top one), ICML 2007.

    Args:
        logits: [B, K]. labels: [B, K], non-negative. mask: bool [B, K], False = padding. weights: [B, K] or None.

    Returns:
        A scalar; 0 if no list has a positive.

    Example:
        >>> import numpy as np
        >>> loss = listwise_softmax_loss(np.zeros((1, 4), "float32"), np.eye(4, dtype="float32")[:1], np.ones((1, 4), bool))
        >>> round(float(loss), 4)  # log 4
        1.3863
    """
    gains = ops.where(mask, ops.cast(labels, logits.dtype), ops.zeros_like(logits))
    gains = gains / ops.maximum(ops.sum(gains, axis=-1, keepdims=True), 1e-9) * _counted(logits, mask, weights)
    log_softmax = _masked_log_softmax(logits, mask)
    return _mean(-ops.sum(gains * ops.where(mask, log_softmax, ops.zeros_like(logits))), ops.sum(gains))


def lambdarank_loss(logits, labels, mask, k: int = 10, weights=None):
    """Pairs in the wrong order, each weighed by what exchanging the two would change in NDCG@k.

        loss_b = sum_{i, j: y_i > y_j} w_i w_j |delta NDCG_ij| log(1 + exp(s_j - s_i))
        |delta NDCG_ij| = |2^{y_i} - 2^{y_j}| |D(r_i) - D(r_j)| / IDCG@k,   D(r) = 1 / log2(1 + r) for r <= k, else 0

    with r the place of an entry by the logits as they stand; no gradient flows through the places. The derivative with
    respect to a logit is LambdaRank's lambda. Averaged over the lists that hold such a pair, each by its pairs' mean weight.

    Paper: Burges, "From RankNet to LambdaRank to LambdaMART: An Overview", MSR-TR-2010-82; the loss behind the gradients:
    Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization", CIKM 2018.

    Args:
        logits: [B, K]. labels: [B, K], relevance from 0. mask: bool [B, K], False = padding. k: places that count.
        weights: [B, K] or None.

    Returns:
        A scalar; 0 if no list has two entries of different labels.

    Example:
        >>> import numpy as np
        >>> logits, labels = np.array([[0.0, 1.0]], "float32"), np.array([[1.0, 0.0]], "float32")
        >>> loss = lambdarank_loss(logits, labels, np.ones((1, 2), bool))
        >>> round(float(loss), 4)  # (1 - 1 / log2(3)) * log(1 + e)
        0.4847
    """
    kept = _counted(logits, mask, weights)
    safe = ops.where(mask, logits, ops.full_like(logits, MASKED_LOGIT))
    gains = ops.where(mask, ops.power(2.0, ops.cast(labels, logits.dtype)) - 1.0, ops.zeros_like(logits))
    discounts = _discounts(ops.stop_gradient(_places(safe)), k)
    ideal = ops.sum(gains * _discounts(_places(ops.where(mask, gains, -ops.ones_like(gains))), k), axis=-1)
    better = ops.logical_and(gains[:, :, None] > gains[:, None, :], ops.logical_and(mask[:, :, None], mask[:, None, :]))
    change = ops.abs(gains[:, :, None] - gains[:, None, :]) * ops.abs(discounts[:, :, None] - discounts[:, None, :])
    change = change / ops.maximum(ideal, 1e-9)[:, None, None] * kept[:, :, None] * kept[:, None, :]
    margin = ops.where(better, safe[:, :, None] - safe[:, None, :], ops.zeros_like(change))
    pairs = ops.where(better, change * ops.softplus(-margin), ops.zeros_like(change))
    # A list counts by the mean weight of its pairs, so that a common factor of all weights changes nothing.
    count = ops.sum(ops.where(better, kept[:, :, None] * kept[:, None, :], ops.zeros_like(change)), axis=(1, 2))
    return _mean(ops.sum(pairs), ops.sum(count / ops.maximum(ops.sum(ops.cast(better, count.dtype), axis=(1, 2)), 1.0)))


def _counted(logits, mask, weights):
    """How often each entry counts, 0 in the padding. [B, K]"""
    kept = ops.cast(mask, logits.dtype)
    return kept if weights is None else ops.where(mask, ops.cast(weights, logits.dtype), ops.zeros_like(kept))


def _mean(total, count):
    """`total / count`, 0 where nothing counts."""
    return ops.where(count > 0, total / ops.where(count > 0, count, ops.ones_like(count)), ops.zeros_like(total))


def _masked_log_softmax(scores, mask):
    """Log softmax over the entries that exist; what stands in the padding is never read."""
    return ops.log_softmax(ops.where(mask, scores, ops.full_like(scores, MASKED_LOGIT)), axis=-1)


def _places(scores):
    """Place of every entry by falling score, from 1; of equal scores the first stands first. [B, K]"""
    index = ops.arange(scores.shape[-1])
    higher = scores[:, None, :] > scores[:, :, None]
    level = ops.logical_and(scores[:, None, :] == scores[:, :, None], (index[None, :] < index[:, None])[None])
    return 1.0 + ops.sum(ops.cast(ops.logical_or(higher, level), scores.dtype), axis=-1)


def _discounts(places, k: int):
    """1 / log2(1 + r) up to place k, 0 beyond it."""
    return ops.where(places <= k, 0.6931471805599453 / ops.log(1.0 + places), ops.zeros_like(places))
