"""The softmax loss a block of queries at a time: loss and gradient in one pass, and never a B x N array."""

from __future__ import annotations

import keras
from keras import ops

from towers.losses import MASKED_LOGIT, weakest_kept
from towers.query_blocks import block_size, mask_columns, over_blocks, own_values, product, put_own

SMALLEST_SHARE = 1e-30
"""Above it float32 has a number for every probability."""


def fused_softmax_loss(
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
    block_logits: int = 0,
    most_candidates: int | None = None,
    products: str = "float32",
):
    """`towers.losses.softmax_loss` with memory that grows with B + N.

    A block of C queries meets all candidates; its [C, N] logits become probabilities and at once the block's part of
    every gradient, so the logits live for one block and are never computed twice. The backward pass only multiplies by
    the gradient of what follows: `dL/dq_i = s w_i (sum_j p_ij c_j - c_own)`, `dL/dc_j = s sum_i w_i (p_ij - [j = own_i])
    q_i`, and `dL/ds = sum_i q_i . dL/dq_i / s`. The idea of the single pass is that of *Cut Your Losses in
    Large-Vocabulary Language Models* (Wijmans et al., ICLR 2025), here with the gradient in the forward pass.

    Args:
        block_logits: C * N at most, in numbers; 0 = `default_block_logits()`. most_candidates: N, or a bound of it, for
            a graph that does not know it; None = as many as queries. products: what the matrix products are computed in,
            "float32" or "bfloat16". The others: see `softmax_loss`; gradients reach queries, candidates and scale, nothing
            else.

    Shapes: as `softmax_loss` -> scalar.

    Example:
        >>> eye = ops.eye(3)
        >>> inputs = {"own": ops.arange(3), "bias": ops.zeros(3), "own_bias": ops.zeros(3), "weights": ops.ones(3)}
        >>> round(float(fused_softmax_loss(eye, eye, scale=ops.array(2.0), **inputs, block_logits=3)), 4)
        0.2395
    """
    size = block_size(queries.shape[0], candidates.shape[0] or most_candidates, block_logits)
    integers = {"own": own} if excluded is None else {"own": own, "excluded": excluded}

    @ops.custom_gradient
    def loss_of(queries, candidates, scale, weights, bias, own_bias):
        table = ops.transpose(candidates)
        weights = weights / ops.maximum(ops.sum(weights), 1e-9)
        rows = {"queries": queries, "weights": weights, "own_bias": own_bias, **integers}

        def of_block(part):
            return block_gradients(part, candidates, table, bias, scale, hardest, label_smoothing, products)

        loss, query_gradient, table_gradient = over_blocks(of_block, rows, size, queries, ops.zeros_like(table))
        # The target in the own column, 1 of N, is taken off here and not off every one of the B * N numbers.
        factor = ((1.0 - label_smoothing) * weights * scale)[:, None]
        targets = ops.segment_sum(queries * factor, own, ops.shape(candidates)[0])
        candidate_gradient = ops.transpose(table_gradient) - targets
        scale_gradient = ops.sum(query_gradient * queries) / scale

        def gradient(upstream):
            return (
                upstream * query_gradient,
                upstream * candidate_gradient,
                upstream * scale_gradient,
                ops.zeros_like(weights),
                ops.zeros_like(bias),
                ops.zeros_like(own_bias),
            )

        return loss, gradient

    return loss_of(queries, candidates, ops.convert_to_tensor(scale), weights, bias, own_bias)


def block_gradients(rows, candidates, table, bias, scale, hardest, label_smoothing, products):
    """Loss of C queries and its gradients, those of the candidates turned and without the own columns' targets.

    Shapes: rows of `over_blocks`, table [D, N] -> scalar, [C, D], [D, N].
    """
    queries, weights, own = rows["queries"], rows["weights"], rows["own"]
    scaled, own_vectors = queries * scale, ops.take(candidates, own, axis=0)
    own_logits = ops.sum(scaled * own_vectors, axis=1) + rows["own_bias"]
    logits = masked_logits(product(scaled, table, products) + bias, own, own_logits, rows.get("excluded"), hardest)
    # One operation for the whole softmax passes over [C, N] once, where its parts would in turn.
    residual = ops.softmax(logits)
    losses = normalisers(logits, residual, own, own_logits) - (1.0 - label_smoothing) * own_logits
    if label_smoothing:
        shares = smoothing_shares(logits, label_smoothing)
        losses = losses - ops.sum(ops.where(shares > 0, shares * logits, 0.0), axis=1)
        residual = residual - shares
    factor = (weights * scale)[:, None]
    query_gradient = (product(residual, candidates, products) - (1.0 - label_smoothing) * own_vectors) * factor
    # [D, C] @ [C, N], for a product reads its large factor fastest as it lies.
    table_gradient = product(ops.transpose(queries * factor), residual, products)
    return ops.sum(weights * losses), query_gradient, table_gradient


def normalisers(logits, shares, own, own_logits):
    """log sum exp of every row, by what the softmax made of it. Shapes: logits, shares [C, N], own, own_logits [C] -> [C].

    One number of a row and its share tell what all were divided by. The own one is at hand; where a share is so small that it
    was rounded to nothing, all rows go by their largest, which takes two passes over [C, N]. On JAX they always do: XLA joins
    these with what it makes anyway, and would hold both arrays for a choice.
    """
    if keras.backend.backend() == "jax":
        return ops.max(logits, axis=1) - ops.log(ops.max(shares, axis=1))
    own_shares = own_values(shares, own)
    return ops.cond(
        ops.min(own_shares) > SMALLEST_SHARE,
        lambda: own_logits - ops.log(own_shares),
        lambda: ops.max(logits, axis=1) - ops.log(ops.max(shares, axis=1)),
    )


def masked_logits(logits, own, own_logits, excluded=None, hardest: int = 0):
    """Logits [C, N] with the own column replaced and the excluded ones gone; of the others the K hardest, if K > 0."""
    if excluded is not None:
        logits = mask_columns(logits, excluded)
    if hardest:
        logits = put_own(logits, own, ops.zeros_like(own_logits) + MASKED_LOGIT)
        logits = ops.where(logits < weakest_kept(logits, hardest), MASKED_LOGIT, logits)
    return put_own(logits, own, own_logits)


def smoothing_shares(logits, label_smoothing: float):
    """The part of the target that label smoothing spreads evenly over all candidates that are not masked. [C, N]"""
    valid = ops.cast(logits > MASKED_LOGIT / 2, logits.dtype)
    return valid * (label_smoothing / ops.sum(valid, axis=1, keepdims=True))
