"""What lists show of the catalogue: how much of it, how popular, how unlike one another, and whose items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.list_metrics import average_popularity, exposure, gini, group_shares, intra_list_diversity
from pipeline.metrics.metrics import LIST_CUTOFF, coverage, mean_over_users, popularity_bias
from pipeline.metrics.segments import ItemGroups


def judge_exposure(
    orders: Mapping[str, NDArray],
    relevant: Interactions,
    counts: NDArray,
    groups: Mapping[str, ItemGroups],
    vectors: NDArray | None,
    k: int = LIST_CUTOFF,
) -> dict[str, Any]:
    """Figures of the first k of every order, beside what people chose and what there is.

    Args:
        orders: name -> item rows [Q, K], best first. relevant: what the Q users chose. counts: [N + 1] training events.
        groups: partitions of the items, by dimension.
        vectors: [N + 1, D] content of the items, zero = none; None where nothing is known of any.

    Returns:
        {"k": k, "orders": {name: {coverage, gini, average_popularity, mean_log_popularity, popularity_bias,
        intra_list_diversity}}, "chosen": {average_popularity, mean_log_popularity}, "groups": {dimension: {group: {each
        order, "chosen", "catalogue": share}}}}. `popularity_bias` is the mean log popularity of what is shown to a user
        less that of what this user chose. Shares of an order are of its exposure (places discounted as in DCG), those
        of `chosen` of the choices, those of `catalogue` of the items.
    """
    items, level = len(counts) - 1, np.log1p(np.asarray(counts, np.float64))
    result: dict[str, Any] = {"k": k, "orders": {}}
    seen = {}
    for name, rows in orders.items():
        seen[name] = exposure(rows, items, k)
        result["orders"][name] = {
            "coverage": coverage(rows, items, k),
            "gini": gini(seen[name][1:]),
            "average_popularity": mean_over_users(average_popularity(rows, counts, k)),
            "mean_log_popularity": mean_over_users(average_popularity(rows, level, k)),
            "popularity_bias": mean_over_users(popularity_bias(rows, relevant, counts, k)),
        }
        if vectors is not None:
            diversity = mean_over_users(intra_list_diversity(rows, vectors, k))
            result["orders"][name]["intra_list_diversity"] = diversity
    owners = relevant.counts > 0
    sums = (np.bincount(relevant.users, weights=of[relevant.rows], minlength=len(relevant)) for of in (counts, level))
    plain, log = (mean_over_users(total[owners] / relevant.counts[owners]) for total in sums)
    result["chosen"] = {"average_popularity": plain, "mean_log_popularity": log}
    seen["chosen"] = np.bincount(relevant.rows, minlength=items + 1).astype(np.float64)
    seen["catalogue"] = np.ones(items + 1)
    result["groups"] = {}
    for dimension, partition in groups.items():
        shares = {name: group_shares(amount, partition.codes, len(partition.names)) for name, amount in seen.items()}
        result["groups"][dimension] = {
            group: {name: float(share[place]) for name, share in shares.items()}
            for place, group in enumerate(partition.names)
        }
    return result


def content_vectors(tables: Mapping[str, NDArray], present: Mapping[str, NDArray]) -> NDArray[np.float32] | None:
    """One vector an item from all its content: every modality centred, of length 1, side by side.

    The cosine of two items that have everything is then the mean of their cosines by modality; what one of them lacks
    counts as unlike.

    Args:
        tables: modality -> [N + 1, F]. present: modality -> bool [N + 1].

    Returns:
        float32 [N + 1, sum of F]; None without any modality.

    Example:
        >>> table = np.array([[9.0], [1.0], [3.0]])
        >>> content_vectors({"text": table}, {"text": np.array([False, True, True])}).tolist()
        [[0.0], [-1.0], [1.0]]
    """
    parts = []
    for name, table in tables.items():
        there = np.asarray(present[name], bool)
        values = np.asarray(table, np.float32)
        centred = (values - (values[there].mean(axis=0) if there.any() else 0.0)) * there[:, None]
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        parts.append(centred / np.where(length > 0, length, 1.0))
    return np.concatenate(parts, axis=1).astype(np.float32) if parts else None
