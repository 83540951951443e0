"""Metrics of ranked lists, one value a user, in NumPy; `probability_metrics` and `list_metrics` beside it have the others.

Every metric of the project stands in one of the three, once: nothing else in the tree computes one.

Ranking metrics take the ranked item rows of B users ([B, K], best first, padded with row 0) and the items each of them
really chose, and return one value per user, so that a mean and its confidence interval come from the same array. A user
without relevant items has no defined value: it is NaN there, and `mean_over_users` leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.interactions import Interactions

Relevant = Interactions | Sequence[Sequence[int]]
RECALL_CUTOFFS, NDCG_CUTOFFS, LIST_CUTOFF = (10, 20, 100), (10, 20), 20


def find_hits(ranked: ArrayLike, relevant: Relevant) -> NDArray[np.bool_]:
    """bool [B, K]: whether each ranked row is among the user's relevant rows. Row 0 (padding) never is.

    Raises:
        ValueError: shapes disagree, or a list names an item twice (it would be counted twice).

    Example:
        >>> find_hits([[4, 2, 9], [1, 3, 0]], [[2, 9], [5]]).astype(int).tolist()
        [[0, 1, 1], [0, 0, 0]]
    """
    rows = np.asarray(ranked, dtype=np.int64)
    truth = relevant if isinstance(relevant, Interactions) else Interactions.from_lists(relevant)
    if rows.ndim != 2 or len(rows) != len(truth):
        raise ValueError(f"ranked: must be [B, K] with B = {len(truth)} users of `relevant`, received {rows.shape}")
    if rows.size == 0:
        return np.zeros(rows.shape, bool)
    ordered = np.sort(rows, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)).any():
        raise ValueError("ranked: an item may appear once in a user's list, received a repeat; remove it upstream")
    width = max(int(rows.max()), int(truth.rows.max(initial=0))) + 1
    wanted = truth.users * width + truth.rows
    asked = np.arange(len(rows))[:, None] * width + rows
    return np.isin(asked, wanted) & (rows != 0)


def recall_at_k(ranked: ArrayLike, relevant: Relevant, k: int) -> NDArray[np.float64]:
    """Share of the user's relevant items that stand in the first k: |top_k ∩ relevant| / |relevant|.

    Args:
        ranked: [B, K] item rows, K >= k, best first.
        relevant: the items of each of the B users.

    Returns:
        float64 [B], NaN where a user has no relevant item.

    Example:
        >>> recall_at_k([[4, 2, 9], [1, 3, 5]], [[2, 9, 7, 8], [5]], k=2).tolist()
        [0.25, 0.0]
    """
    hits, sizes = _first_k(ranked, relevant, k)
    return _divide(hits.sum(axis=1), sizes)


def ndcg_at_k(ranked: ArrayLike, relevant: Relevant, k: int) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain with binary gains, the ideal list cut at k as well.

    DCG = Σ_{i<=k} hit_i / log2(i + 1); the ideal has min(k, |relevant|) hits in front. Järvelin & Kekäläinen (2002),
    https://doi.org/10.1145/582415.582418.

    Example: the two relevant items on places 1 and 3 give (1 + 1/2) / (1 + 1/log2(3)).
        >>> ndcg_at_k([[2, 4, 9]], [[2, 9]], k=3).round(4).tolist()
        [0.9197]
    """
    hits, sizes = _first_k(ranked, relevant, k)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(sizes, k)]
    return _divide(hits @ discounts, ideal)


def mrr(ranked: ArrayLike, relevant: Relevant, k: int | None = None) -> NDArray[np.float64]:
    """Reciprocal rank of the first relevant item within the list (or its first k), 0 when there is none.

    Example:
        >>> mrr([[4, 2, 9], [1, 3, 5], [1, 2, 3]], [[2, 9], [8], []]).tolist()
        [0.5, 0.0, nan]
    """
    hits, sizes = _first_k(ranked, relevant, np.shape(ranked)[1] if k is None else k)
    first = np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)
    return np.where(sizes > 0, first, np.nan)


def coverage(ranked: ArrayLike, items: int, k: int | None = None) -> float:
    """Share of the catalogue's `items` (N, row 0 not counted) that appears in at least one user's first k.

    Example:
        >>> coverage([[4, 2, 0], [2, 1, 5]], items=8, k=2)
        0.375
    """
    if items < 1:
        raise ValueError(f"items: must be >= 1, received {items}; pass the number of items without row 0")
    shown = np.unique(np.asarray(ranked)[:, :k])
    return float(np.count_nonzero(shown) / items)


def popularity_bias(
    ranked: ArrayLike, relevant: Relevant, counts: ArrayLike, k: int | None = None
) -> NDArray[np.float64]:
    """How much more popular the recommended items are than those the user then chose, on a log scale.

    mean_{i in top_k} ln(1 + c_i) − mean_{i in relevant} ln(1 + c_i), with c the training event counts. 0: as popular as
    real choices; 1: e times as popular (geometric mean); negative: more of the long tail than people really take.

    Args:
        counts: [N + 1] training events of each item row.

    Example: both recommended items have 9 events, the chosen one 99: ln(10) − ln(100).
        >>> popularity_bias([[1, 2]], [[3]], counts=[0, 9, 9, 99]).round(4).tolist()
        [-2.3026]
    """
    rows = np.asarray(ranked, dtype=np.int64)[:, :k]
    truth = relevant if isinstance(relevant, Interactions) else Interactions.from_lists(relevant)
    level = np.log1p(np.asarray(counts, dtype=np.float64))
    recommended = _divide(np.where(rows != 0, level[rows], 0.0).sum(axis=1), (rows != 0).sum(axis=1))
    chosen = np.bincount(truth.users, weights=level[truth.rows], minlength=len(truth))
    return recommended - _divide(chosen, truth.counts)


def ranking_metrics(ranked: ArrayLike, relevant: Relevant, counts: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Per-user values of every ranking metric the report shows; `popularity_bias` looks at the first 20.

    A cutoff deeper than K is left out rather than reported short.

    Example:
        >>> values = ranking_metrics([[2, 1, *range(4, 22)]], [[1]], counts=np.ones(22))
        >>> values["recall@10"].tolist(), values["mrr"].tolist(), "recall@100" in values
        ([1.0], [0.5], False)
    """
    depth = np.shape(ranked)[1]
    values = {f"recall@{k}": recall_at_k(ranked, relevant, k) for k in RECALL_CUTOFFS if k <= depth}
    values |= {f"ndcg@{k}": ndcg_at_k(ranked, relevant, k) for k in NDCG_CUTOFFS if k <= depth}
    values["mrr"] = mrr(ranked, relevant)
    return values | {"popularity_bias": popularity_bias(ranked, relevant, counts, LIST_CUTOFF)}


def summarise_ranking(ranked: ArrayLike, relevant: Relevant, counts: ArrayLike) -> dict[str, float]:
    """Means over users with at least one relevant item, with `coverage` (first 20 of those users) and `users`.

    Example:
        >>> summary = summarise_ranking([[2, 1], [1, 2]], [[1], []], counts=[0, 3, 5])
        >>> summary["mrr"], summary["coverage"], summary["users"]
        (0.5, 1.0, 1)
    """
    rows, values = np.asarray(ranked), ranking_metrics(ranked, relevant, counts)
    judged = ~np.isnan(values["mrr"])
    summary = {name: mean_over_users(value) for name, value in values.items()}
    summary["coverage"] = coverage(rows[judged], len(np.asarray(counts)) - 1, LIST_CUTOFF)
    return summary | {"users": int(judged.sum())}


def mean_over_users(values: ArrayLike) -> float:
    """Mean of the defined (not NaN) values; NaN when there are none.

    >>> mean_over_users([0.5, float("nan"), 0.0])
    0.25
    """
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else float("nan")


def mean_or_none(values: ArrayLike) -> float | None:
    """Mean of the defined values for a report; None when there are none."""
    return None if np.isnan(values).all() else mean_over_users(values)


def _first_k(ranked: ArrayLike, relevant: Relevant, k: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Hits in the first k [B, k] and the number of relevant items [B]."""
    depth = np.shape(ranked)[1]
    if not 1 <= k <= depth:
        raise ValueError(f"k: must lie in [1, {depth}], the length of the ranked lists, received {k}; rank deeper")
    truth = relevant if isinstance(relevant, Interactions) else Interactions.from_lists(relevant)
    return find_hits(np.asarray(ranked)[:, :k], truth), truth.counts


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """Elementwise quotient, NaN where the denominator is 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)
