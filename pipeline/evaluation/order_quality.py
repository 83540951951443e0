"""How well orders of the same candidates are liked: NDCG by task and segment, with intervals over users, in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from data.schema import TEST
from pipeline.metrics.bootstrap import bootstrap_means
from pipeline.metrics.examples import Requests
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.segments import MINIMUM_USERS, Segment, by_dimension
from pipeline.ranker.event_labels import event_labels

CUTOFFS = (5, 10, 20)
TASKS = ("click", "like", "purchase")
"""Heads whose positive label says that somebody wanted the item."""


def task_targets(dataset: Dataset, requests: Requests) -> dict[str, Interactions]:
    """What the users of requests of the test split wanted, by task: everything held out for `click`, and that of each kind.

    A task that fewer than `MINIMUM_USERS` have targets of is left out.
    """
    relevant, width = requests.relevant, dataset.schema.item_rows
    found, inside = {"click": relevant}, dataset.events["split"].to_numpy() == TEST
    user, item = (dataset.events[name].to_numpy() for name in ("user", "item"))
    for task, label in event_labels(dataset).items():
        if task not in TASKS or task in found:
            continue
        at = np.flatnonzero(inside & (label > 0))
        wanted = Interactions.from_pairs(user[at], item[at], dataset.schema.user_rows).select(requests.users)
        both = np.isin(wanted.users * width + wanted.rows, relevant.users * width + relevant.rows)
        targets = Interactions.from_pairs(wanted.users[both], wanted.rows[both], len(relevant))
        if np.count_nonzero(targets.counts) >= MINIMUM_USERS:
            found[task] = targets
    return found


def ndcg_by_cutoff(
    ranked: NDArray, relevant: Interactions, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, NDArray[np.float64]]:
    """NDCG of each user at each cutoff that the lists reach. {ndcg@k: [Q]}"""
    return {f"ndcg@{k}": ndcg_at_k(ranked, relevant, k) for k in cutoffs if k <= np.shape(ranked)[1]}


def judge_orders(
    orders: Mapping[str, NDArray],
    targets: Mapping[str, Interactions],
    users: NDArray,
    segments: Sequence[Segment],
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """NDCG of two orders of the same candidates and of their difference, each as [mean, low, high].

    A segment of items counts the held-out items of that segment alone, among all candidates; a segment of users counts
    those users. Bounds are of 95 % bootstrap intervals over users, the same resamples for both orders and for their
    difference.

    Args:
        orders: two names and their item rows [Q, K], best first; differences are the first less the second.
        targets: task -> what the Q users wanted. users: [Q] rows.

    Returns:
        {task: {dimension: {group: {"users": count, "ndcg@k": {each order and "difference": [mean, low, high]}}}}}
    """
    deepest = max(CUTOFFS)
    (first, one), (second, other) = ((name, rows[:, :deepest]) for name, rows in orders.items())
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for task, wanted in targets.items():
        whole = {name: ndcg_by_cutoff(rows, wanted) for name, rows in ((first, one), (second, other))}
        result[task] = {}
        for dimension, group in by_dimension(segments).items():
            columns, labels = [], []
            for segment in group:
                values = whole
                if segment.items is not None:
                    kept = wanted.restrict(segment.items)
                    values = {name: ndcg_by_cutoff(rows, kept) for name, rows in ((first, one), (second, other))}
                inside = np.ones(len(users), bool) if segment.users is None else segment.users[users]
                for metric in values[first]:
                    pair = [np.where(inside, values[name][metric], np.nan) for name in (first, second)]
                    columns += [*pair, pair[0] - pair[1]]
                    labels += [(segment.name, metric, name) for name in (first, second, "difference")]
            table = np.stack(columns, axis=1)
            low, high = bootstrap_means(table, np.random.default_rng(seed))
            result[task][dimension] = _nested(labels, table, low, high)
    return result


def _nested(labels: list[tuple[str, str, str]], table: NDArray, low: NDArray, high: NDArray) -> dict[str, Any]:
    """Groups with enough users, each with its figures."""
    groups: dict[str, Any] = {}
    for place, (group, metric, name) in enumerate(labels):
        users = int(np.count_nonzero(~np.isnan(table[:, place])))
        if users >= MINIMUM_USERS:
            figures = groups.setdefault(group, {"users": users})
            figures.setdefault(metric, {})[name] = [
                mean_over_users(table[:, place]),
                float(low[place]),
                float(high[place]),
            ]
    return groups
