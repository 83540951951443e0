"""Diversity of a page by content: marginal relevance, and determinantal point processes by greedy choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops as keras_ops

from ranking.array_ops import with_row
from ranking.stored_rows import take_rows

RIDGE = 0.01
"""Share of an item that is like nothing else, so that a page longer than the content's rank still has a volume."""
LEAST_VOLUME = 1e-6


def content_tokens(tokens: Any, present: Any, columns: tuple[int, ...], rows: Any, *, ops: Any = keras_ops) -> Any:
    """Unit content vectors of candidates, one per modality; zeros where an item has none.

    Args:
        tokens: [N + 1, M', D] and present: [N + 1, M'], of a ranker's serving form.
        columns: M of the M' columns, those that are content.
        rows: int [B, K].

    Returns: f32 [B, M, K, D].
    """
    # Rows first: a column of the whole table would be a copy of it.
    drawn, there = take_rows(tokens, rows, ops=ops), take_rows(present, rows, ops=ops)
    parts = [drawn[:, :, column] * there[:, :, column, None] for column in columns]
    drawn = ops.cast(ops.stack(parts, axis=1), "float32")
    length = ops.sqrt(ops.sum(ops.square(drawn), axis=-1, keepdims=True))
    return drawn / ops.maximum(length, 1e-6)


def vector_sizes(vectors: Any, *, ops: Any = keras_ops) -> Any:
    """Length of each candidate's modalities side by side, never 0: f32 [B, M, K, D] -> f32 [B, K]."""
    return ops.sqrt(ops.maximum(ops.sum(ops.square(vectors), axis=(1, 3)), 1e-9))


def similarity_to(vectors: Any, sizes: Any, hit: Any, *, ops: Any = keras_ops) -> tuple[Any, Any]:
    """How alike each candidate and a chosen one of its line are: in the most alike modality, and in all side by side.

    One cover ten times in a row is monotonous whatever the words say, so novelty (MMR) takes the most alike modality;
    a determinant needs a kernel, and the cosine of the modalities side by side is one.

    Shapes: vectors f32 [B, M, K, D], unit or zero; sizes f32 [B, K], see `vector_sizes`; hit f32 [B, K], 1 where the
    chosen one stands -> two f32 [B, K].

    Example: the same picture under other words.
        >>> from ranking.array_ops import numpy_ops
        >>> pictures, words = [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]
        >>> items = np.array([[pictures, words]])
        >>> sizes, first = vector_sizes(items, ops=numpy_ops), np.array([[1.0, 0.0]])
        >>> [part.round(6).tolist() for part in similarity_to(items, sizes, first, ops=numpy_ops)]
        [[[1.0, 1.0]], [[1.0, 0.5]]]
    """
    chosen = ops.matmul(hit[:, None, None, :], vectors)  # [B, M, 1, D]
    cosine = ops.matmul(vectors, ops.transpose(chosen, (0, 1, 3, 2)))[..., 0]
    size = ops.maximum(ops.sum(sizes * hit, axis=1, keepdims=True), 1e-5)
    return ops.max(cosine, axis=1), ops.sum(cosine, axis=1) / (sizes * size)


def determinant_step(
    similarity: Any, volume: Any, factor: Any, hit: Any, step: Any, *, ops: Any = keras_ops
) -> tuple[Any, Any]:
    """One step of greedy MAP of a determinantal point process, by the row of the Cholesky factor that it adds.

        e_i = (L_ji - <c_j, c_i>) / d_j,  c_i <- [c_i e_i],  d_i^2 <- d_i^2 - e_i^2

    with L = (1 - r) (1 + cosine) / 2 + r I. `d_i^2` is the volume that item i would add to what is chosen: the
    determinant of the chosen items with i over that without. Chen, Zhang & Zhou (NeurIPS 2018),
    https://arxiv.org/abs/1709.05135; O(k K) a step.

    Shapes: similarity f32 [B, K] to the chosen item j; volume f32 [B, K] = d^2; factor f32 [B, k, K] = c, zero from row
    `step` on; hit f32 [B, K], 1 where j stands -> volume, factor. The chosen item's own volume is left as it is.
    """
    kernel = (1.0 - RIDGE) * (1.0 + similarity) / 2.0
    column = ops.matmul(factor, hit[:, :, None])  # c_j, [B, k, 1]
    explained = ops.matmul(ops.transpose(column, (0, 2, 1)), factor)[:, 0]
    own = ops.sqrt(ops.maximum(ops.sum(volume * hit, axis=1, keepdims=True), LEAST_VOLUME))
    added = (kernel - explained) / own * (1.0 - hit)
    return volume - added * added, with_row(factor, step, added, ops=ops)


def mmr(relevance: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> np.ndarray:
    """Marginal relevance of one list, in its plainest form: the yardstick of the tests and of a notebook.

        next = argmax_i weight * relevance_i - (1 - weight) * mean_{j chosen} sim(i, j)

    Carbonell & Goldstein (SIGIR 1998), https://doi.org/10.1145/290941.291025, take the most similar of the chosen. The mean
    makes it the greedy choice for relevance and distance within the page together (max-sum diversification, Gollapudi &
    Sharma, WWW 2009, https://doi.org/10.1145/1526709.1526761): on the demo it buys twice the distance at the same NDCG.

    Args:
        relevance: [K]. vectors: [M, K, D] unit vectors or zeros; sim is the cosine of the most alike modality.
        k: places. weight: lambda.

    Returns: int [min(k, K)], places of the chosen in the order of the choice; a page shows them by relevance.

    Example: of two alike the second is put off.
        >>> mmr(np.array([1.0, 0.9, 0.5]), np.array([[[1.0, 0], [1, 0], [0, 1]]]), 3, 0.6).tolist()
        [0, 2, 1]
    """
    alike = (vectors @ vectors.transpose(0, 2, 1)).max(axis=0)
    chosen: list[int] = []
    for _ in range(min(k, len(relevance))):
        rest = [i for i in range(len(relevance)) if i not in chosen]
        penalty = alike[rest][:, chosen].mean(axis=1) if chosen else np.zeros(len(rest))
        chosen.append(rest[int(np.argmax(weight * relevance[rest] - (1 - weight) * penalty))])
    return np.array(chosen, np.int64)
