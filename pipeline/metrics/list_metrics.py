"""Metrics of what lists show rather than of whether it was chosen: exposure, concentration, popularity, diversity.

They take ranked item rows [B, K], best first, padded with row 0, as the metrics of `pipeline.metrics.metrics` do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_USERS = 256


def exposure(ranked: ArrayLike, items: int, k: int | None = None) -> NDArray[np.float64]:
    """How much attention each item gets over all lists: Σ over its places p of 1 / log2(1 + p), the discount of DCG.

    Singh & Joachims (2018), https://arxiv.org/abs/1802.07281.

    Args:
        items: N, row 0 not counted.

    Returns:
        float64 [N + 1]; row 0 (padding) has none.

    Example:
        >>> exposure([[2, 1], [2, 0]], items=3).round(3).tolist()
        [0.0, 0.631, 2.0, 0.0]
    """
    rows = np.asarray(ranked, dtype=np.int64)[:, :k]
    discounts = np.broadcast_to(1.0 / np.log2(np.arange(2, rows.shape[1] + 2)), rows.shape)
    total = np.bincount(rows.ravel(), weights=discounts.ravel(), minlength=items + 1).astype(np.float64)
    total[0] = 0.0
    return total


def gini(amounts: ArrayLike) -> float:
    """Concentration of non-negative amounts: 0 where all are equal, (n − 1) / n where one has everything.

    G = Σ_i (2 i − n − 1) x_(i) / (n Σ x), x ascending, i from 1; NaN when nothing is there to share.

    Example:
        >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 8])
        (0.0, 0.75)
    """
    values = np.sort(np.asarray(amounts, dtype=np.float64).ravel())
    if values.size and values[0] < 0:
        raise ValueError(f"amounts: must be >= 0, received {values[0]}")
    if not values.size or values.sum() == 0:
        return float("nan")
    places = np.arange(1, values.size + 1)
    return float((2 * places - values.size - 1) @ values / (values.size * values.sum()))


def average_popularity(ranked: ArrayLike, counts: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """Average recommendation popularity: the mean count of the items in each user's first k; NaN for an empty list.

    Abdollahpouri et al. (2019), https://arxiv.org/abs/1901.07555. `pipeline.metrics.metrics.popularity_bias` compares on a log
    scale with what the user then chose.

    Args:
        counts: [N + 1] training events of each item row.

    Example:
        >>> average_popularity([[1, 2], [2, 0]], counts=[0, 9, 1]).tolist()
        [5.0, 1.0]
    """
    rows = np.asarray(ranked, dtype=np.int64)[:, :k]
    real, level = rows != 0, np.asarray(counts, dtype=np.float64)
    sizes = real.sum(axis=1)
    mean = np.full(len(rows), np.nan)
    return np.divide(np.where(real, level[rows], 0.0).sum(axis=1), sizes, out=mean, where=sizes > 0)


def intra_list_diversity(ranked: ArrayLike, vectors: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """Mean over all pairs of a user's first k of 1 − cosine of their vectors.

    Ziegler et al. (2005), https://doi.org/10.1145/1060745.1060754. An item whose vector is zero (nothing is known of its
    content) is left out; a list with fewer than two others is NaN.

    Args:
        vectors: [N + 1, D], any length.

    Example:
        >>> intra_list_diversity([[1, 2], [1, 3]], [[0, 0], [1, 0], [2, 0], [0, 1]]).tolist()
        [0.0, 1.0]
    """
    rows, table = np.asarray(ranked, dtype=np.int64)[:, :k], np.asarray(vectors)
    parts = [np.zeros(0)]
    for start in range(0, len(rows), BLOCK_USERS):
        block = rows[start : start + BLOCK_USERS]
        drawn = table[block].astype(np.float64) * (block != 0)[..., None]
        length = np.linalg.norm(drawn, axis=2)
        count = (length > 0).sum(axis=1)
        total = (drawn / np.where(length > 0, length, 1.0)[..., None]).sum(axis=1)
        # The cosines of all ordered pairs of different items are those of all pairs less those with itself.
        between = np.square(total).sum(axis=1) - count
        pairs = count * (count - 1.0)
        mean = np.divide(between, pairs, out=np.full(len(block), np.nan), where=pairs > 0)
        parts.append(1.0 - mean)
    return np.concatenate(parts)


def intra_list_distance(ranked: ArrayLike, tokens: ArrayLike) -> NDArray[np.float64]:
    """Mean over all pairs of a user's items of 1 − the cosine of the modality in which the two are most alike.

    Ten covers that look the same are one thing shown ten times, whatever their titles say. A modality that an item lacks
    counts as unlike; items without any are left out, and a list with fewer than two others is NaN.

    Args:
        tokens: [N + 1, M, D], unit vectors or zeros.

    Example: the same picture under other words.
        >>> intra_list_distance([[1, 2]], [[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[1, 0], [0, 1]]]).tolist()
        [0.0]
    """
    rows, table = np.asarray(ranked, dtype=np.int64), np.asarray(tokens, dtype=np.float32)
    parts = [np.zeros(0)]
    for start in range(0, len(rows), BLOCK_USERS):
        block = rows[start : start + BLOCK_USERS]
        drawn = (table[block] * (block != 0)[..., None, None]).transpose(0, 2, 1, 3)
        alike = (drawn @ drawn.transpose(0, 1, 3, 2)).max(axis=1).astype(np.float64)
        there = (drawn != 0).any(axis=(1, 3))
        pairs = there[:, :, None] & there[:, None, :] & ~np.eye(block.shape[1], dtype=bool)
        count, total = pairs.sum(axis=(1, 2)), np.where(pairs, alike, 0.0).sum(axis=(1, 2))
        parts.append(1.0 - np.divide(total, count, out=np.full(len(block), np.nan), where=count > 0))
    return np.concatenate(parts)


def group_shares(amounts: ArrayLike, groups: ArrayLike, count: int) -> NDArray[np.float64]:
    """Share of the amounts [N + 1] that each group 0 .. count − 1 has; a negative group is none. NaN when all are 0.

    Example:
        >>> group_shares([0, 1, 1, 2], [-1, 0, 0, 1], count=3).tolist()
        [0.5, 0.5, 0.0]
    """
    values, code = np.asarray(amounts, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    kept = code >= 0
    total = np.bincount(code[kept], weights=values[kept], minlength=count)
    return total / total.sum() if total.sum() > 0 else np.full(count, np.nan)
