"""Lists to learn from: what was shown, joined with what the index would have shown, in NumPy.

Rules, each checked by a test:

- A request is a user's events within a window (`group_requests`); its time is that of its first event, and its history
  is what the user chose strictly before. What the user had seen before is no candidate, as it is masked at serving.
- Impressions are labelled as logged: `click` for any positive event, `purchase` for a purchase, both 0 for a skip.
- Negatives come from the rows the index retrieved for the request, and a few from the whole catalogue. An item that the
  user chooses anywhere in the same fold is never a negative: the index was right about it, only early. No feature sees
  it.
- Nothing that is not yet released at the time of the request enters a list, as an impression or as a negative.
- Score and rank of every element mean the same: dot product with the query, and its place among the retrieved scores.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Array = NDArray


@dataclasses.dataclass(frozen=True)
class Requests:
    """R requests; their impressions and seen items in compressed form: those of request r are `start[r]:start[r + 1]`.

    Shapes: `user` int32 [R], `timestamp` int64 [R], `history` int32 [R, L] (most recent first, padded with 0);
    `start` int64 [R + 1], `item` int32 [E], `click`, `purchase` bool [E]; `seen_start` int64 [R + 1], `seen_item`
    int32 [S].
    """

    user: Array
    timestamp: Array
    history: Array
    start: Array
    item: Array
    click: Array
    purchase: Array
    seen_start: Array
    seen_item: Array

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: Array) -> Requests:
        """The requests with the given indices, in that order."""
        chosen = np.asarray(chosen, np.int64)
        start, event = _select(self.start, chosen)
        seen_start, seen = _select(self.seen_start, chosen)
        return Requests(
            self.user[chosen],
            self.timestamp[chosen],
            self.history[chosen],
            start,
            self.item[event],
            self.click[event],
            self.purchase[event],
            seen_start,
            self.seen_item[seen],
        )

    def with_past(self, history: Array, seen: list[Array]) -> Requests:
        """The same requests with their histories [R, L] and one array of seen item rows each."""
        seen_start = np.concatenate([[0], np.cumsum([len(rows) for rows in seen])]).astype(np.int64)
        rows = np.concatenate([np.zeros(0, np.int32), *seen]).astype(np.int32)
        return dataclasses.replace(self, history=history, seen_start=seen_start, seen_item=rows)


def _select(start: Array, chosen: Array) -> tuple[Array, Array]:
    """Offsets of the chosen groups, and the positions of their members."""
    sizes = np.diff(start)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return offsets, np.repeat(start[chosen] - offsets[:-1], sizes) + np.arange(offsets[-1])


@dataclasses.dataclass(frozen=True)
class RankingLists:
    """Training lists: `user` [R], `timestamp` [R], `history` [R, L], and the rest [R, K]; padding has row 0, mask
    False."""

    user: Array
    timestamp: Array
    history: Array
    candidates: Array
    retrieval_scores: Array
    retrieval_ranks: Array
    click: Array
    purchase: Array
    mask: Array

    def __len__(self) -> int:
        return len(self.user)


def group_requests(
    user: Array, item: Array, timestamp: Array, click: Array, purchase: Array, window_seconds: int
) -> Requests:
    """Groups a fold's events into requests without a past; repeats of an item in a request are merged.

    Args:
        user, item, timestamp, click, purchase: columns [E] of the fold, any order.
        window_seconds: events less than this after a request's first event belong to it; 0 = one request a user.
    """
    order = np.lexsort((timestamp, user))
    user, item, timestamp = (np.asarray(column)[order] for column in (user, item, timestamp))
    click, purchase = np.asarray(click, bool)[order], np.asarray(purchase, bool)[order]
    first = np.zeros(len(user), bool)
    begun_user, begun_time = -1, 0
    for event in range(len(user)):
        late = window_seconds > 0 and timestamp[event] >= begun_time + window_seconds
        if user[event] != begun_user or late:
            first[event], begun_user, begun_time = True, user[event], timestamp[event]
    owner = np.cumsum(first) - 1
    width = int(item.max(initial=0)) + 1
    pair, merged = np.unique(owner * width + item, return_inverse=True)
    clicked, bought = np.zeros(len(pair), bool), np.zeros(len(pair), bool)
    np.logical_or.at(clicked, merged, click)
    np.logical_or.at(bought, merged, purchase)
    start = np.searchsorted(pair // width, np.arange(first.sum() + 1)).astype(np.int64)
    history = np.zeros((int(first.sum()), 0), np.int32)
    users, times = user[first].astype(np.int32), timestamp[first].astype(np.int64)
    rows = (pair % width).astype(np.int32)
    return Requests(users, times, history, start, rows, clicked, bought, np.zeros_like(start), np.zeros(0, np.int32))


def place_among(scores: Array, retrieved_scores: Array) -> Array:
    """1 + how many retrieved scores are higher, float32 [R, K]; so at most T + 1 beyond the retrieved T."""
    ordered = np.sort(-retrieved_scores, axis=1)
    places = [np.searchsorted(line, -asked, "left") for line, asked in zip(ordered, scores, strict=True)]
    return (np.stack(places) if places else np.zeros(scores.shape)).astype(np.float32) + 1.0


def assemble_lists(
    requests: Requests,
    retrieved_rows: Array,
    retrieved_scores: Array,
    queries: Array,
    item_embeddings: Array,
    *,
    chosen_user: Array,
    chosen_item: Array,
    released: Array,
    list_size: int,
    random_negatives: int,
    rng: np.random.Generator,
) -> RankingLists:
    """Lists [R, K]: impressions first (positives before skips), then negatives from the index, then random ones.

    Args:
        requests: with their past (`with_past`).
        retrieved_rows, retrieved_scores: [R, T], what the index answers for each request, padded with row 0.
        queries: [R, D]; item_embeddings: [N + 1, D]; their dot product is the retrieval score.
        chosen_user, chosen_item: pairs [E] that the users chose anywhere in the fold; never negatives.
        released: [N + 1], time of each item's release, 0 = always there.
        list_size, random_negatives: K, and how many of them may come from the whole catalogue.
        rng: draws the negatives; the same state gives the same lists.

    Returns:
        `RankingLists`; a request left without any impression keeps its place, all masked.
    """
    count, items = len(requests), len(item_embeddings)
    lists = np.arange(count)
    drawn = rng.integers(1, max(items, 2), (count, 2 * random_negatives)) if items > 1 else np.zeros((count, 0), int)
    sizes = np.diff(requests.start)
    shown = np.zeros((count, int(sizes.max(initial=0))), np.int64)
    column = np.arange(len(requests.item)) - np.repeat(requests.start[:-1], sizes)
    owner = np.repeat(lists, sizes)
    shown[owner, column] = requests.item
    click, purchase = np.zeros(shown.shape, bool), np.zeros(shown.shape, bool)
    click[owner, column], purchase[owner, column] = requests.click, requests.purchase

    fill = max(0, list_size - shown.shape[1] - retrieved_rows.shape[1] - drawn.shape[1])
    parts = [shown, retrieved_rows.astype(np.int64), drawn, np.zeros((count, fill), np.int64)]
    pool = np.concatenate(parts, axis=1)
    source = np.repeat([0, 1, 2, 3], [part.shape[1] for part in parts])
    now = np.where(requests.timestamp > 0, requests.timestamp, np.iinfo(np.int64).max)
    valid = (pool > 0) & (released[pool] <= now[:, None])
    valid &= ~_named_before(pool)
    in_request = lists[:, None] * items + pool
    valid &= ~np.isin(in_request, np.repeat(lists, np.diff(requests.seen_start)) * items + requests.seen_item)
    in_fold = requests.user.astype(np.int64)[:, None] * items + pool
    chosen = np.isin(in_fold, np.asarray(chosen_user, np.int64) * items + chosen_item)
    valid &= (source == 0) | ~chosen

    # Smaller keys are taken first: positives, skips, the quota of random negatives, then a random choice of the index.
    keys = rng.random(pool.shape)
    keys[:, : shown.shape[1]] -= 3 + click
    random_part = np.where(valid & (source == 2), keys, np.inf)
    quota = np.argsort(np.argsort(random_part, axis=1), axis=1) < random_negatives
    keys = np.where(source == 2, np.where(quota, keys - 1, keys + 1), keys)
    keys = np.where(valid, keys, np.inf)
    taken = np.argsort(keys, axis=1, kind="stable")[:, :list_size]
    mask = np.take_along_axis(valid, taken, 1)
    impressions = (valid & (source == 0)).any(axis=1)
    mask &= impressions[:, None]
    candidates = np.where(mask, np.take_along_axis(pool, taken, 1), 0)
    labels = [np.zeros(pool.shape, bool), np.zeros(pool.shape, bool)]
    labels[0][:, : shown.shape[1]], labels[1][:, : shown.shape[1]] = click, purchase
    clicked, bought = (np.take_along_axis(label, taken, 1) & mask for label in labels)
    scores = np.einsum("rd,rkd->rk", queries, item_embeddings[candidates], optimize=True).astype(np.float32)
    places = place_among(scores, np.where(retrieved_rows > 0, retrieved_scores, -np.inf))
    return RankingLists(
        user=requests.user,
        timestamp=requests.timestamp,
        history=requests.history,
        candidates=candidates.astype(np.int32),
        retrieval_scores=np.where(mask, scores, 0).astype(np.float32),
        retrieval_ranks=np.where(mask, places, 1).astype(np.float32),
        click=clicked.astype(np.float32),
        purchase=bought.astype(np.float32),
        mask=mask,
    )


def _named_before(pool: Array) -> Array:
    """bool [R, W]: an earlier column of the same line holds the same row; impressions stand first and so win."""
    order = np.argsort(pool, axis=1, kind="stable")
    ordered = np.take_along_axis(pool, order, 1)
    repeated = np.zeros(pool.shape, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    named = np.zeros(pool.shape, bool)
    np.put_along_axis(named, order, repeated, 1)
    return named
