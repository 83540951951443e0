"""Adversarial training on embeddings: the direction that hurts the in-batch softmax most, in closed form."""

from __future__ import annotations

from keras import ops

from towers.fusion import unit_length
from towers.losses import in_batch_logits, in_batch_softmax_loss


def adversarial_directions(queries, candidates, *, candidate_rows, log_q, scale, weights, masked=None):
    """Unit directions in which the in-batch softmax loss grows fastest, for each query and each candidate.

    Formula: with `p = softmax_j(l)`, `dL/dq_i = s w_i (sum_j p_ij c_j - c_i) / W` and `dL/dc_j = s sum_i w_i (p_ij -
    [i = j]) q_i / W`, each divided by its length; written out, so that no backend has to differentiate twice.

    Shapes: as `in_batch_softmax_loss` -> queries [B, D], candidates [B, D]; no gradient flows through them.
    """
    logits = in_batch_logits(
        queries, candidates, candidate_rows=candidate_rows, log_q=log_q, scale=scale, masked=masked
    )
    surplus = ops.softmax(logits, axis=-1) - ops.eye(ops.shape(candidate_rows)[0], dtype=logits.dtype)
    # The common factor s / W goes away with the length, yet it would vanish in float32 before.
    surplus = surplus * weights[:, None]
    of_queries = ops.matmul(surplus, candidates)
    of_candidates = ops.matmul(ops.transpose(surplus), queries)
    return ops.stop_gradient(_direction(of_queries)), ops.stop_gradient(_direction(of_candidates))


def adversarial_loss(
    queries, candidates, *, candidate_rows, log_q, scale, weights, epsilon: float, masked=None
):
    """The in-batch softmax loss where every embedding has been moved by epsilon in its worst direction.

    Formula: `L(q + eps g_q / |g_q|, c + eps g_c / |g_c|)`. He et al., *Adversarial Personalized Ranking for
    Recommendation*, SIGIR 2018; Goodfellow et al. 2015.

    Shapes: as `in_batch_softmax_loss` -> scalar.
    """
    rest = {"candidate_rows": candidate_rows, "log_q": log_q, "scale": scale, "weights": weights, "masked": masked}
    of_queries, of_candidates = adversarial_directions(queries, candidates, **rest)
    return in_batch_softmax_loss(queries + epsilon * of_queries, candidates + epsilon * of_candidates, **rest)


def _direction(gradients):
    # Tiny gradients of easy queries still have a direction; scaled up first, unit_length's floor does not eat them.
    largest = ops.max(ops.abs(gradients), axis=-1, keepdims=True)
    return unit_length(gradients / ops.maximum(largest, 1e-30))
