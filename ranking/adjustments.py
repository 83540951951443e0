"""What is added to scores before a page is made: freshness, less of what is popular anyway, a boost of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops as keras_ops

HEAD_SHARE, TAIL_SHARE = 0.2, 0.2
BUCKETS = 3
"""Popular, middling, rare: codes 0, 1 and 2."""


def score_range(scores: Any, kept: Any, *, ops: Any = keras_ops) -> Any:
    """Best minus worst score of each request's kept candidates, [B, 1]; 0 where there are none.

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> score_range(np.array([[0.5, 0.1, 9.0]]), np.array([[True, True, False]]), ops=numpy_ops).tolist()
        [[0.4]]
    """
    best = ops.max(ops.where(kept, scores, -np.inf), axis=1, keepdims=True, initial=-np.inf)
    worst = ops.min(ops.where(kept, scores, np.inf), axis=1, keepdims=True, initial=np.inf)
    return ops.where(ops.any(kept, axis=1, keepdims=True), best - worst, ops.zeros_like(best))


def freshness(age_days: Any, dated: Any, days: Any, *, ops: Any = keras_ops) -> Any:
    """`exp(-age / days)`, 0 where the age is unknown and 1 for what comes out later than the request.

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> freshness(np.array([0.0, 7.0, 1.0]), np.array([True, True, False]), 7.0, ops=numpy_ops).round(3).tolist()
        [1.0, 0.368, 0.0]
    """
    return ops.exp(-ops.maximum(age_days, 0.0) / days) * ops.cast(dated, "float32")


def popularity_buckets(counts: np.ndarray) -> np.ndarray:
    """Each item's bucket: the most popular items that make up a fifth of all events, the rarest that make up another.

    Abdollahpouri et al. (2019), https://arxiv.org/abs/1907.13286.

    Args:
        counts: [N + 1] events of each item. Row 0 counts as rare.

    Returns: int32 [N + 1], 0 = popular, 1 = middling, 2 = rare; items without events are rare.

    Example:
        >>> popularity_buckets(np.array([0, 40, 10, 30, 10, 10])).tolist()
        [2, 0, 1, 1, 2, 2]
    """
    counts = np.asarray(counts, np.float64).copy()
    counts[0] = 0.0
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    total = max(counts.sum(), 1.0)
    bucket = np.empty(len(counts), np.int32)
    # By the events before an item, so that the most popular one is popular however much it has.
    bucket[order] = np.where(before < HEAD_SHARE * total, 0, np.where(before < (1 - TAIL_SHARE) * total, 1, 2))
    return np.where(counts > 0, bucket, BUCKETS - 1).astype(np.int32)


def bucket_shares(buckets: Any, exists: Any, prior: Any, *, ops: Any = keras_ops) -> Any:
    """Share of each bucket in a user's history, with the prior counting as one more event.

    Shapes: buckets int [B, L], exists bool [B, L], prior f32 [G], sums to 1 -> f32 [B, G].

    Example:
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> history, prior = np.array([[2, 2, 0]]), np.array([0.5, 0.5, 0.0], np.float32)
        >>> bucket_shares(history, np.array([[True, True, True]]), prior, ops=numpy_ops).round(3).tolist()
        [[0.375, 0.125, 0.5]]
    """
    ones = ops.cast(buckets[:, :, None] == ops.arange(prior.shape[0], dtype="int32"), "float32")
    counts = ops.sum(ones * ops.cast(exists, "float32")[:, :, None], axis=1)
    return (counts + prior) / (ops.sum(counts, axis=1, keepdims=True) + 1.0)


def divergence_after(target: Any, counts: Any, *, ops: Any = keras_ops) -> Any:
    """How far the page's shares are from the target, once an item of each bucket were added.

        JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2,  m = (p + q) / 2, in nats; q_g = (counts + e_g) / (n + 1)

    Calibrated recommendations: Steck (2018), https://doi.org/10.1145/3240323.3240372; by popularity: Abdollahpouri et
    al. (2021), https://arxiv.org/abs/2103.06364.

    Shapes: target f32 [B, G], counts f32 [B, G] of what the page holds -> f32 [B, G].

    Example: with one popular item on the page, a rare one brings it to the target.
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> divergence_after(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]), ops=numpy_ops).round(4).tolist()
        [[0.2158, 0.0]]
    """
    size = counts.shape[1]
    after = counts[:, None, :] + ops.eye(size, dtype="float32")
    page = after / ops.sum(after, axis=2, keepdims=True)
    wanted = target[:, None, :] + ops.zeros_like(page)
    middle = (page + wanted) / 2
    part = lambda p: ops.sum(p * ops.log(ops.maximum(p, 1e-9) / ops.maximum(middle, 1e-9)), axis=2)  # noqa: E731
    return (part(page) + part(wanted)) / 2
