"""What tells a fake user from a customer: traits of every user's events, as shilling detection knows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

TRAITS = ("rarity", "similarity", "coherence", "pace", "surge", "agreement")
WEEK = 7 * 86_400
NEIGHBOURS, SAMPLE, BLOCK = 25, 2000, 1024
"""Nearest users that a user is compared with, users at most among whom they are looked for, and users at a time."""
TASTES = 32
"""Directions of taste that coherence looks at."""


def user_traits(
    users: np.ndarray,
    items: np.ndarray,
    timestamps: np.ndarray | None = None,
    values: np.ndarray | None = None,
    *,
    user_rows: int,
    item_rows: int,
    seed: int = 0,
) -> np.ndarray:
    """One line a user, one column a trait of `TRAITS`; a user without events is all zeros.

    - `rarity`: log of the mean of `|v - mean v_i| / n_i` (RDMA, Chirita et al. 2005, *Preventing shilling attacks in
      online recommender systems*), with the deviation 1 where a log has no values: how rare the user's items are.
    - `similarity`: mean cosine of the sets of items with those of the 25 most alike users (DegSim, the same).
    - `coherence`: log of the share of the user's items that the leading directions of taste explain. People's choices go
      together; fillers drawn at random, or by popularity, do not. With `X~ = D_u^-1/2 X D_i^-1/2` and V its leading right
      singular vectors but the first, which is popularity: `|V' x~_u|^2 / |x~_u|^2`.
    - `pace`: log of events a day between the first and the last.
    - `surge`: the highest of the user's events in `log(weekly events of the item / those that its total and the week's
      traffic let expect)`: whether one of the items had a sudden success that the user was part of.
    - `agreement`: the highest, over the user's items, of `log(share of the 25 most alike who have it / share of all)`:
      a group that is alike in one item nobody else takes. Of users on the edge of the 25 who are alike to the same degree,
      each counts as a part of a user. Burke et al. (2006), *Classification features for attack
      detection in collaborative recommender systems*, call such a target-model attribute.

    Args:
        users, items: int [E]. timestamps: [E] seconds; None = pace and surge are 0. values: float [E], NaN unknown.
        seed: of the sample of users, where there are more than 2,000.

    Shapes: -> float64 [user_rows, 6].
    """
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    traits = np.zeros((user_rows, len(TRAITS)))
    if not len(users):
        return traits
    per_user = np.bincount(users, minlength=user_rows)
    per_item = np.bincount(items, minlength=item_rows)
    column = dict(zip(TRAITS, traits.T, strict=True))
    deviation = np.ones(len(users))
    if values is not None and np.isfinite(values).any():
        known = np.isfinite(values)
        sums = np.bincount(items[known], weights=values[known], minlength=item_rows)
        means = sums / np.maximum(np.bincount(items[known], minlength=item_rows), 1)
        deviation = np.where(known, np.abs(values - means[items]), 0.0)
    mean = _mean_of(users, deviation / per_item[items], per_user)
    column["rarity"][:] = np.where(per_user > 0, np.log(mean + 1e-9), 0.0)
    if timestamps is not None and np.ptp(timestamps):
        column["pace"][:] = _pace(users, np.asarray(timestamps, np.int64), per_user)
        surge = np.log(_surges(items, np.asarray(timestamps, np.int64), per_item))
        np.maximum.at(column["surge"], users, surge)
    taken = scipy.sparse.csr_array((np.ones(len(users), np.float32), (users, items)), shape=(user_rows, item_rows))
    taken.data[:] = 1.0
    column["coherence"][:] = _coherence(taken)
    column["similarity"][:], column["agreement"][:] = _neighbours(taken, seed)
    return traits


def _mean_of(users: np.ndarray, values: np.ndarray, per_user: np.ndarray) -> np.ndarray:
    return np.bincount(users, weights=values, minlength=len(per_user)) / np.maximum(per_user, 1)


def _pace(users: np.ndarray, timestamps: np.ndarray, per_user: np.ndarray) -> np.ndarray:
    first = np.full(len(per_user), np.iinfo(np.int64).max)
    last = np.zeros(len(per_user), np.int64)
    np.minimum.at(first, users, timestamps)
    np.maximum.at(last, users, timestamps)
    days = np.maximum(last - np.minimum(first, last), 3600) / 86_400
    return np.where(per_user > 1, np.log(np.maximum(per_user, 1) / days), 0.0)


def _surges(items: np.ndarray, timestamps: np.ndarray, per_item: np.ndarray) -> np.ndarray:
    """Of every event: the item's events of that week over what its total and the week's traffic let expect, with one
    event added to either, so that a rare item's only sale is no surge. [E]"""
    week = (timestamps - timestamps.min()) // WEEK
    weeks = int(week.max()) + 1
    both, place = np.unique(items * weeks + week, return_inverse=True)
    found = np.bincount(place)
    traffic = np.bincount(week, minlength=weeks) / len(week)
    expected = per_item[both // weeks] * traffic[both % weeks]
    return ((found + 1.0) / (expected + 1.0))[place]


def _coherence(taken: Any) -> np.ndarray:
    per_user, per_item = (np.maximum(np.asarray(taken.sum(axis=axis)).ravel(), 1.0) for axis in (1, 0))
    active = np.flatnonzero(np.diff(taken.indptr))
    normal = scipy.sparse.diags_array(per_user[active] ** -0.5) @ taken[active] @ scipy.sparse.diags_array(per_item**-0.5)
    coherence, rank = np.zeros(taken.shape[0]), min(TASTES + 1, min(normal.shape) - 1)
    if rank < 2:
        return coherence
    start = np.ones(min(normal.shape))
    _, values, vectors = scipy.sparse.linalg.svds(normal.tocsr().astype(np.float64), k=rank, v0=start)
    tastes = vectors[np.argsort(-values)[1:]]
    explained = ((normal @ tastes.T) ** 2).sum(axis=1)
    whole = np.asarray(normal.multiply(normal).sum(axis=1)).ravel()
    coherence[active] = np.log(explained / whole + 1e-3)
    return coherence


def _neighbours(taken: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarity to the nearest users, and the highest lift of an own item among them."""
    user_rows = taken.shape[0]
    sizes = np.asarray(taken.sum(axis=1)).ravel()
    active = np.flatnonzero(sizes)
    rng = np.random.default_rng(seed)
    others = active if len(active) <= SAMPLE else np.sort(rng.choice(active, SAMPLE, replace=False))
    kept = min(NEIGHBOURS, len(others) - 1)
    similarity, agreement = np.zeros(user_rows), np.zeros(user_rows)
    if kept < 1:
        return similarity, agreement
    share = np.asarray(taken[active].sum(axis=0)).ravel() / len(active)
    unit = scipy.sparse.diags_array(1.0 / np.sqrt(np.maximum(sizes, 1.0))).tocsr() @ taken
    compared, sets = unit[others].T.tocsr(), taken[others]
    for start in range(0, len(active), BLOCK):
        rows = active[start : start + BLOCK]
        cosines = (unit[rows] @ compared).toarray()
        cosines[rows[:, None] == others[None, :]] = -1.0
        # Sets of equal sizes and overlaps are alike to the last bit, and by the dozen: those on the edge share the places left.
        edge = -np.partition(-cosines, kept - 1, axis=1)[:, kept - 1 : kept]
        nearer = cosines > edge
        left = kept - nearer.sum(axis=1, keepdims=True)
        similarity[rows] = (np.where(nearer, cosines, 0.0).sum(axis=1) + (left * edge)[:, 0]) / kept
        at_edge = (cosines == edge) & (edge > 0)  # who shares nothing has no own item either
        shares = nearer + at_edge * (left / np.maximum(at_edge.sum(axis=1, keepdims=True), 1))
        chosen = scipy.sparse.csr_array(shares.astype(np.float32))
        # One neighbour is added who is like everybody: an item that a single one shares is no agreement.
        own = (chosen @ sets).multiply(taken[rows]).tocoo()
        lift = np.log((own.data + share[own.col]) / ((kept + 1) * share[own.col]))
        best = np.zeros(len(rows))
        np.maximum.at(best, own.row, lift)
        agreement[rows] = best
    return similarity, agreement
