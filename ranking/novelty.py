"""A page by marginal relevance alone, in few operations a place: what most releases ask of a policy."""

from __future__ import annotations

from typing import Any

from keras import ops as keras_ops

CLOSED = -1e30
"""What no utility comes near."""
AT_ONCE = 5
"""Places of one turn of the loop, whose own books cost as much as two; those beyond the page are thrown away."""


def novel_places(
    scores: Any, kept: Any, spread: Any, vectors: Any, relevance: Any, k: Any, *, ops: Any = keras_ops
) -> tuple[Any, Any]:
    """The places that `ranking.page.fill_page` chooses where nothing but `mmr_lambda` is asked for.

        next = argmax_i lambda s_i - R (1 - lambda) mean_j sim(i, j)

    over what is kept and not shown yet, j over what is shown, and sim of the most alike modality; see
    `ranking.diversity.mmr` for why it is the mean. A step has a tenth of the general page's operations, which on
    some hundred candidates cost more than the numbers in them.

    Args:
        scores: f32 [B, K]. kept: bool [B, K]. spread: R, f32 [B, 1]. vectors: f32 [B, M, K, D], unit or zero.
        relevance: lambda, [1, 1] or [B, 1].
        k: an int, or a scalar tensor.

    Returns: places int32 [B, k], -1 where none is left, and propensities f32 [B, k], 1 or 0.

    Example: of two alike the second is put off.
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> scores, vectors = np.array([[1.0, 0.9, 0.5]]), np.array([[[[1.0, 0], [1, 0], [0, 1]]]])
        >>> some = (scores, np.array([[True, True, True]]), np.array([[0.5]]), vectors, np.array([[0.4]]))
        >>> novel_places(*some, 4, ops=numpy_ops)[0].tolist()
        [[0, 2, 1, -1]]
    """
    shape = ops.shape(scores)
    candidates, numbers = ops.arange(shape[1], dtype="int32")[None, :], ops.arange(k, dtype="int32")[None, :]
    penalty = spread * (1.0 - relevance)

    def place_one(number: Any, places: Any, open_scores: Any, alike: Any) -> tuple[Any, ...]:
        mean = alike / ops.cast(ops.maximum(number, 1), "float32")
        best = ops.top_k(open_scores - penalty * mean, 1)[1]
        chosen = candidates == best
        theirs = ops.matmul(ops.cast(chosen, "float32")[:, None, None, :], vectors)  # [B, M, 1, D]
        cosine = ops.matmul(vectors, ops.transpose(theirs, (0, 1, 3, 2)))
        alike = alike + ops.max(cosine, axis=(1, 3))
        return number + 1, ops.where(numbers == number, best, places), ops.where(chosen, CLOSED, open_scores), alike

    def step(*state: Any) -> tuple[Any, ...]:
        for _ in range(AT_ONCE):
            state = place_one(*state)
        return state

    start = (
        ops.convert_to_tensor(0, dtype="int32"),
        ops.zeros((shape[0], k), dtype="int32"),
        ops.where(kept, relevance * scores, CLOSED),
        scores * 0.0,
    )
    places = ops.while_loop(lambda number, *_: number < k, step, start)[1]
    found = numbers < ops.sum(ops.cast(kept, "int32"), axis=1)[:, None]
    return ops.where(found, places, -1), ops.cast(found, "float32")
