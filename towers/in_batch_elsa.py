"""The ELSA form: scores and history compared as directions, in time and memory linear in the catalogue."""

from __future__ import annotations

from keras import ops


def in_batch_elsa_loss(queries, candidates, *, own, present, weights, excluded=None):
    """Weighted mean squared error between a query's normalised scores and its user's normalised positives.

    Formula: `s_ij = q_i . c_j` over the present candidates, y_i = 1 for the own candidate and the user's other positives,
    `L = sum_i w_i |s_i / |s_i| - y_i / |y_i||^2 / sum_i w_i`. Vančura et al., *Scalable Linear Shallow Autoencoder for
    Collaborative Filtering* (ELSA), RecSys 2022. The scores are never written down: `|s_i|^2 = q_i' (C' C) q_i`, and of
    their sum with y only the positives count, so a step costs B (D^2 + P D) + N D^2 and not B N D.

    Args:
        present: 1 for real candidates, 0 for padding. excluded: columns of the user's other positives, filled up with the
            own column; despite the name it shares with the other losses, here they are what should score high.

    Shapes: queries [B, D], candidates [N, D], own [B] int, present [N], weights [B], excluded [B, P] int -> scalar.

    Example:
        >>> eye, row = ops.eye(2), {"own": ops.array([0, 1]), "present": ops.ones(2), "weights": ops.ones(2)}
        >>> float(in_batch_elsa_loss(eye, eye, **row)), float(in_batch_elsa_loss(-eye, eye, **row))
        (0.0, 4.0)
    """
    candidates = candidates * present[:, None]
    gram = ops.matmul(ops.transpose(candidates), candidates)
    squared = ops.sum(ops.matmul(queries, gram) * queries, axis=1)
    own_vectors = ops.take(candidates, own, axis=0)
    hit, number = ops.sum(queries * own_vectors, axis=1), 1.0
    if excluded is not None:
        # A positive that no present candidate stands for is no part of the target.
        others = ops.cast(excluded != own[:, None], queries.dtype) * ops.take(present, excluded)
        scores = ops.einsum("bd,bpd->bp", queries, ops.take(candidates, excluded, axis=0))
        hit, number = hit + ops.sum(others * scores, axis=1), 1.0 + ops.sum(others, axis=1)
    cosine = hit * ops.rsqrt(squared * number + 1e-12)
    return ops.sum(weights * (2.0 - 2.0 * cosine)) / ops.maximum(ops.sum(weights), 1e-9)
