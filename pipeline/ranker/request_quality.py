"""How well lists suit the visit they are made for: NDCG request by request, ranked, as retrieved, and by boosted trees.

A visit has an hour, a device, and releases of its day, and what it wants is what was chosen in it. Judged by all that a
user chooses over the weeks of a test split (`pipeline.evaluation.order_quality`), whatever of the moment a ranker knows
counts little.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.bootstrap import bootstrap_ratios
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.ranker.boosted_trees import load_boosted_trees, score_candidates
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import order_by
from ranking.requests import Requests
from ranking.serving_form import RankingServingForm

MOST_REQUESTS = 6_000
"""Of more requests a random choice is judged: intervals are narrow by then, and trees answer a candidate at a time."""


def wanted_items(requests: Requests, released: NDArray | None = None) -> Interactions:
    """What was chosen in each request and could have been recommended to it: the impressions with a positive `click` of items
    that the user had not seen before and that were released by then, one line a request.

    Args:
        released: [N + 1] UTC seconds, 0 = always there; None = nothing is left out for its release.
    """
    owner, chosen = requests.owner, requests.labels["click"] > 0
    width = int(max(requests.item.max(initial=0), requests.seen_item.max(initial=0))) + 1
    seen = np.repeat(np.arange(len(requests)), np.diff(requests.seen_start)) * width + requests.seen_item
    chosen &= ~np.isin(owner * width + requests.item, seen)
    if released is not None:
        now = requests.timestamp[owner]
        chosen &= (released[requests.item] <= now) | (now <= 0)
    return Interactions.from_pairs(owner[chosen], requests.item[chosen], len(requests))


def judged_requests(fold: RankingFold) -> RankingFold:
    """The requests that are judged: all, or a choice of `MOST_REQUESTS` that no setting changes, so that two runs are asked the
    same ones."""
    if len(fold.requests) <= MOST_REQUESTS:
        return fold
    return fold.take(np.sort(np.random.default_rng(0).permutation(len(fold.requests))[:MOST_REQUESTS]))


def request_values(
    fold: RankingFold, scores: NDArray, form: RankingServingForm, trained: Path | None, k: int = 10
) -> dict[str, NDArray[np.float64]]:
    """NDCG@k of the orders that ranker, retrieval and boosted trees give to the same candidates, request by request.

    Args:
        fold: requests of the judged split with their past, and what the index answered. scores: [R, T], the ranker's.
        form: whose features the trees read.
        trained: folder of the ranking stage, where boosted trees may lie; None = none.

    Returns: {`ranked`, `retrieval`, and `lightgbm` where there are trees: [R]}, NaN where a request chose nothing.
    """
    asked = fold.requests
    orders = {"ranked": order_by(fold.rows, scores), "retrieval": fold.rows}
    if trained is not None and (booster := load_boosted_trees(trained)) is not None:
        given = (asked.user, asked.history, fold.rows, fold.scores, asked.timestamp, asked.context)
        orders["lightgbm"] = order_by(fold.rows, score_candidates(booster, form, *given))
    wanted = wanted_items(asked, fold.released)
    return {name: ndcg_at_k(rows[:, :k], wanted, k) for name, rows in orders.items()}


def summarise_requests(values: Mapping[str, NDArray], users: NDArray, seed: int, k: int = 10) -> dict[str, Any]:
    """Means of `request_values` and of their differences over requests that chose anything.

    Args:
        values: order -> [R], `ranked` among them. users: [R], whose requests they are.

    Returns: {`requests`, `k`, and by order (`ranked`, `retrieval`, `lightgbm`) and for `ranked_less_retrieval` and
    `ranked_less_lightgbm`: [mean, low, high]}; bounds of 95 % intervals by resampling users with all their requests.
    """
    less = {
        f"ranked_less_{other}": values["ranked"] - values[other]
        for other in ("retrieval", "lightgbm")
        if other in values
    }
    counted = int(np.count_nonzero(~np.isnan(values["ranked"])))
    return {"requests": counted, "k": k, **with_intervals({**values, **less}, users, seed)}


def mean_by_user(values: NDArray, users: NDArray, asked: NDArray) -> NDArray[np.float64]:
    """Mean of each asked user's requests [Q]; NaN for one without a value.

    Args:
        values, users: [R]. asked: user rows [Q].

    Example:
        >>> mean_by_user(np.array([0.0, 0.5, np.nan]), np.array([4, 4, 9]), np.array([9, 4])).tolist()
        [nan, 0.25]
    """
    defined, size = ~np.isnan(values), int(max(users.max(initial=0), asked.max(initial=0))) + 1
    total = np.bincount(users[defined], weights=values[defined], minlength=size)[asked]
    count = np.bincount(users[defined], minlength=size)[asked]
    return np.divide(total, count, out=np.full(len(asked), np.nan), where=count > 0)


def with_intervals(values: Mapping[str, NDArray], users: NDArray, seed: int) -> dict[str, list[float]]:
    """Mean over requests of every column, with the bounds of its interval; a user's requests are resampled together.

    Args:
        values: name -> [R], NaN where a request has no value. users: [R] rows.

    Example: two requests of one user and one of another; the interval spans what either user alone would give.
        >>> found = with_intervals({"ndcg": np.array([0.0, 0.5, 1.0])}, np.array([4, 4, 9]), seed=7)
        >>> [round(bound, 2) for bound in found["ndcg"]]
        [0.5, 0.25, 1.0]
    """
    table = np.stack(list(values.values()), axis=1)
    defined = ~np.isnan(table)
    people, owner = np.unique(users, return_inverse=True)
    sums, counts = np.zeros((len(people), table.shape[1])), np.zeros((len(people), table.shape[1]))
    np.add.at(sums, owner, np.where(defined, table, 0.0))
    np.add.at(counts, owner, defined)
    low, high = bootstrap_ratios(sums, counts, np.random.default_rng(seed))
    return {
        name: [mean_over_users(values[name]), float(low[place]), float(high[place])]
        for place, name in enumerate(values)
    }
