"""Softmax losses of retrieval as plain functions of arrays: what the fused form in training must equal."""

from __future__ import annotations

from keras import ops

MASKED_LOGIT = -1e9
"""Far below any logit, yet finite: exp(MASKED_LOGIT - max) is exactly 0 in float32 and gradients stay finite."""


def accidental_hits(candidate_rows):
    """Where another row of the batch holds the same item as the positive: not a negative at all.

    Shapes: candidate_rows [B] -> [B, B] bool, False on the diagonal.

    Example:
        >>> ops.convert_to_numpy(accidental_hits(ops.array([5, 7, 5]))).astype(int).tolist()
        [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """
    same = candidate_rows[:, None] == candidate_rows[None, :]
    return ops.logical_and(same, ops.logical_not(ops.eye(ops.shape(candidate_rows)[0], dtype="bool")))


def in_batch_logits(queries, candidates, *, candidate_rows, log_q, scale, masked=None):
    """Corrected logits of the in-batch softmax.

    Formula: `l_ij = scale * q_i . c_j - log Q(j)`, and MASKED_LOGIT where j is an accidental hit of i or `masked`. Q(j) is the
    probability that item j is drawn into a batch, here its share of the training events: popular items appear as negatives
    more often than they deserve, and the correction takes that back. Yi et al., *Sampling-Bias-Corrected Neural Modeling for
    Large Corpus Item Recommendations*, RecSys 2019.

    Shapes: queries [B, D], candidates [B, D], candidate_rows [B], log_q [B], masked [B, B] bool or None -> [B, B].
    """
    logits = scale * ops.matmul(queries, ops.transpose(candidates)) - log_q[None, :]
    hits = accidental_hits(candidate_rows)
    if masked is not None:
        # The positive itself is never masked away, whatever the caller marked.
        own = ops.eye(ops.shape(candidate_rows)[0], dtype="bool")
        hits = ops.logical_or(hits, ops.logical_and(masked, ops.logical_not(own)))
    return ops.where(hits, MASKED_LOGIT, logits)


def in_batch_softmax_loss(queries, candidates, *, candidate_rows, log_q, scale, weights, masked=None):
    """Weighted mean cross-entropy of each query's own candidate against all candidates of the batch.

    Formula: `L = sum_i w_i (logsumexp_j l_ij - l_ii) / sum_i w_i` with `l` of `in_batch_logits`; 0 when every weight
    is 0.

    Shapes: as `in_batch_logits`, weights [B] -> scalar.

    Example:
        >>> import numpy as np
        >>> eye = ops.eye(2)
        >>> inputs = {"candidate_rows": ops.array([1, 2]), "log_q": ops.zeros(2), "weights": ops.ones(2)}
        >>> loss = in_batch_softmax_loss(eye, eye, scale=1.0, **inputs)
        >>> bool(abs(float(loss) - np.log(1 + np.exp(-1))) < 1e-6)
        True
    """
    logits = in_batch_logits(
        queries, candidates, candidate_rows=candidate_rows, log_q=log_q, scale=scale, masked=masked
    )
    per_query = ops.logsumexp(logits, axis=-1) - ops.diagonal(logits)
    return ops.sum(weights * per_query) / ops.maximum(ops.sum(weights), 1e-9)


def softmax_loss(
    queries,
    candidates,
    *,
    own,
    bias,
    own_bias,
    scale,
    weights,
    excluded=None,
    hardest: int = 0,
    label_smoothing: float = 0.0,
):
    """Weighted mean cross-entropy of each query's own candidate against a list of distinct candidates.

    Formula: `l_ij = s q_i . c_j + bias_j`, and `s q_i . c_own + own_bias_i` in the own column, and MASKED_LOGIT where j is
    excluded; `L = sum_i w_i (logsumexp_j l_ij - sum_j y_ij l_ij) / sum_i w_i` with `y = 1` in the own column.

    One form for every set of negatives. `bias_j = log n_j - log Q(j)` stands for n_j equal candidates, so a batch in which
    items repeat has one column an item; `own_bias_i = -log Q(own)` counts the own item once, so accidental hits are gone
    without a mask. A column of which there are no copies has the bias MASKED_LOGIT, and counts only where it is the own.

    Args:
        excluded: columns that are no negatives of a query, its user's other positives; the own column is never excluded,
            so it also fills up short lists.
        hardest: K > 0 keeps, beside the own column, the K columns of the largest logits; all where there are no more.
        label_smoothing: e takes that much of y from the own column and spreads it evenly over all columns that are not
            masked (Szegedy et al., *Rethinking the Inception Architecture*, 2016).

    Shapes: queries [B, D], candidates [N, D], own [B] int, bias [N], own_bias [B], weights [B], excluded [B, P] int ->
    scalar.

    Example:
        >>> eye = ops.eye(3)
        >>> inputs = {"own": ops.arange(3), "bias": ops.zeros(3), "own_bias": ops.zeros(3), "weights": ops.ones(3)}
        >>> round(float(softmax_loss(eye, eye, scale=2.0, **inputs)), 4)
        0.2395
    """
    columns = ops.arange(ops.shape(candidates)[0], dtype=own.dtype)
    is_own = columns[None, :] == own[:, None]
    products = scale * ops.matmul(queries, ops.transpose(candidates))
    logits = ops.where(is_own, products + own_bias[:, None], products + bias[None, :])
    if excluded is not None:
        hidden = ops.any(columns[None, None, :] == excluded[:, :, None], axis=1)
        logits = ops.where(ops.logical_and(hidden, ops.logical_not(is_own)), MASKED_LOGIT, logits)
    if hardest:
        weakest = weakest_kept(ops.where(is_own, MASKED_LOGIT, logits), hardest)
        logits = ops.where(ops.logical_or(is_own, logits >= weakest), logits, MASKED_LOGIT)
    valid = ops.cast(logits > MASKED_LOGIT / 2, logits.dtype)
    shares = label_smoothing * valid / ops.sum(valid, axis=1, keepdims=True)
    targets = shares + (1.0 - label_smoothing) * ops.cast(is_own, logits.dtype)
    hit = ops.sum(ops.where(targets > 0, targets * logits, 0.0), axis=1)
    per_query = ops.logsumexp(logits, axis=-1) - hit
    return ops.sum(weights * per_query) / ops.maximum(ops.sum(weights), 1e-9)


def weakest_kept(logits, hardest: int):
    """The K-th largest logit of every row, the smallest where there are fewer than K columns. [C, N] -> [C, 1].

    Example:
        >>> logits = ops.array([[3.0, 1.0, 2.0]])
        >>> float(weakest_kept(logits, 2)[0, 0]), float(weakest_kept(logits, 9)[0, 0])
        (2.0, 1.0)
    """
    columns = ops.shape(logits)[1]
    # The columns of a batch are as many as its distinct items: on TensorFlow a number that the graph learns when it runs.
    number = min(hardest, columns) if isinstance(columns, int) else ops.minimum(hardest, columns)
    return ops.top_k(logits, number)[0][:, -1:]
