"""The sigmoid loss: every pair of a query and a candidate is a question of its own, with no sum over the batch."""

from __future__ import annotations

from keras import ops

from towers.query_blocks import block_size, mask_columns, over_blocks, own_values, put_own


def sigmoid_loss(queries, candidates, *, own, copies, shift, scale, weights, excluded=None):
    """Weighted mean over queries of the log loss of all their pairs.

    Formula: `l_ij = s q_i . c_j + t`, `L = sum_i w_i (softplus(-l_own) + sum_{j != own} n_j softplus(l_ij)) / sum_i w_i`
    with n_j copies of candidate j in the batch; excluded pairs are left out. Zhai et al., *Sigmoid Loss for Language
    Image Pre-Training*, ICCV 2023. The shift t is learned and starts where nearly every pair is a "no".

    Shapes: queries [B, D], candidates [N, D], own [B] int, copies [N], shift and scale scalars, weights [B], excluded
    [B, P] int -> scalar.

    Example:
        >>> pair = {"own": ops.array([0]), "copies": ops.array([1.0, 2.0]), "weights": ops.ones(1)}
        >>> round(float(sigmoid_loss(ops.zeros((1, 3)), ops.zeros((2, 3)), shift=0.0, scale=1.0, **pair)), 4)
        2.0794
    """
    columns = ops.arange(ops.shape(candidates)[0], dtype=own.dtype)
    is_own = columns[None, :] == own[:, None]
    counted = ops.where(is_own, 1.0, copies[None, :])
    if excluded is not None:
        hidden = ops.any(columns[None, None, :] == excluded[:, :, None], axis=1)
        counted = ops.where(ops.logical_and(hidden, ops.logical_not(is_own)), 0.0, counted)
    logits = scale * ops.matmul(queries, ops.transpose(candidates)) + shift
    per_pair = ops.softplus(ops.where(is_own, -logits, logits))
    return ops.sum(weights[:, None] * counted * per_pair) / ops.maximum(ops.sum(weights), 1e-9)


def fused_sigmoid_loss(
    queries, candidates, *, own, copies, shift, scale, weights, excluded=None, block_logits: int = 0,
    most_candidates: int | None = None,
):  # fmt: skip
    """`sigmoid_loss` a block of queries at a time: loss and gradient in one pass, memory that grows with B + N.

    Formula: with `r_ij = n_j sigmoid(l_ij)`, and `sigmoid(l_own) - 1` in the own column, `dL/dq_i = s w_i sum_j r_ij c_j`,
    `dL/dc_j = s sum_i w_i r_ij q_i`, `dL/dt = sum_ij w_i r_ij`. See `towers.fused_softmax.fused_softmax_loss`.

    Shapes: as `sigmoid_loss` -> scalar; gradients reach queries, candidates, scale and shift.
    """
    size = block_size(queries.shape[0], candidates.shape[0] or most_candidates, block_logits)
    integers = {"own": own} if excluded is None else {"own": own, "excluded": excluded}

    @ops.custom_gradient
    def loss_of(queries, candidates, scale, shift, weights, copies):
        table = ops.transpose(candidates)
        weights = weights / ops.maximum(ops.sum(weights), 1e-9)

        def of_block(rows):
            logits = ops.matmul(rows["queries"] * scale, table) + shift
            own_logits = own_values(logits, rows["own"])
            if "excluded" in rows:  # a pair so far below has neither loss nor gradient
                logits = mask_columns(logits, rows["excluded"])
            losses = put_own(ops.softplus(logits) * copies, rows["own"], ops.softplus(-own_logits))
            residual = put_own(ops.sigmoid(logits) * copies, rows["own"], ops.sigmoid(own_logits) - 1.0)
            factor = rows["weights"][:, None]
            shifts = ops.sum(residual, axis=1)
            # The shift's gradient rides along as one more column of the queries' gradient.
            query_gradient = ops.concatenate(
                [ops.matmul(residual, candidates) * (factor * scale), shifts[:, None] * factor], axis=1
            )
            spread = ops.matmul(ops.transpose(residual), rows["queries"] * (factor * scale))
            return ops.sum(factor * losses), query_gradient, spread

        rows = {"queries": queries, "weights": weights, **integers}
        zeros = ops.zeros((size, queries.shape[1] + 1), dtype=queries.dtype)
        loss, gradients, candidate_gradient = over_blocks(of_block, rows, size, zeros, ops.zeros_like(candidates))
        query_gradient = gradients[:, :-1]
        scale_gradient = ops.sum(query_gradient * queries) / scale
        shift_gradient = ops.sum(gradients[:, -1])

        def gradient(upstream):
            return (
                upstream * query_gradient,
                upstream * candidate_gradient,
                upstream * scale_gradient,
                upstream * shift_gradient,
                ops.zeros_like(weights),
                ops.zeros_like(copies),
            )

        return loss, gradient

    scale, shift = ops.convert_to_tensor(scale), ops.convert_to_tensor(shift)
    return loss_of(queries, candidates, scale, shift, weights, copies)
