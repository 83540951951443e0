"""From a split's events to ranking lists: requests, what the index answers them, and the lists of an epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from data.dataset import Dataset
from data.histories import Histories
from data.schema import SPLIT_CODES
from pipeline.metrics.examples import positive_histories
from pipeline.ranker.event_labels import event_labels
from ranking.config import RankingConfig
from ranking.lists import RankingLists, assemble_lists
from ranking.propensity import propensity_weights
from ranking.requests import Requests, group_requests

QueryFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(user rows [B], history rows [B, L]) -> queries [B, D]."""
SearchFunction = Callable[[np.ndarray, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(queries [B, D], k, excluded rows [B, E] padded with 0) -> (rows [B, k], scores [B, k])."""
SEARCH_BLOCK = 256
ASKED_AT_MOST = 4
"""How many times k the index is asked for at most, to leave k once unreleased items are gone."""


@dataclasses.dataclass(frozen=True)
class RankingFold:
    """Requests of one split and what the index answered them.

    Attributes:
        requests: R requests with their past.
        queries: [R, D]. rows, scores: [R, T], retrieved.
        chosen_user, chosen_item: [E] pairs that users chose anywhere in the split.
        released: [N + 1] UTC seconds, 0 = always there; None = unknown.
    """

    requests: Requests
    queries: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    chosen_user: np.ndarray
    chosen_item: np.ndarray
    released: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> RankingFold:
        arrays = (self.queries[chosen], self.rows[chosen], self.scores[chosen])
        return RankingFold(self.requests.take(chosen), *arrays, self.chosen_user, self.chosen_item, self.released)

    def lists(
        self, dataset: Dataset, item_embeddings: np.ndarray, config: RankingConfig, seed: list[int]
    ) -> RankingLists:
        """One draw of negatives: lists [R, K] that depend on `seed` alone."""
        return assemble_lists(
            self.requests,
            self.rows,
            self.scores,
            self.queries,
            item_embeddings,
            chosen_user=self.chosen_user,
            chosen_item=self.chosen_item,
            released=dataset.items["created_at"].to_numpy(np.int64),
            list_size=config.list_size,
            random_negatives=config.random_negatives,
            rng=np.random.default_rng(seed),
        )


def retrieve_fold(
    dataset: Dataset,
    split: str,
    query_fn: QueryFunction,
    search_fn: SearchFunction,
    config: RankingConfig,
    *,
    known_splits: tuple[str, ...],
    query_history: int,
) -> RankingFold:
    """Requests of a split, each with its past, and the index's answer to each.

    Args:
        known_splits: splits that lie before; their events are the past whatever their time, as in retrieval's evaluation.
            Of the split itself only what is strictly before a request is its past.
        query_history: history length that `query_fn` is given.
    """
    chosen = np.flatnonzero(dataset.events["split"].to_numpy() == SPLIT_CODES[split])
    user, item, time = (dataset.events[name].to_numpy()[chosen] for name in ("user", "item", "timestamp"))
    positive = dataset.positive[chosen]
    requests = group_requests(
        user,
        item,
        time,
        {head: values[chosen] for head, values in event_labels(dataset).items()},
        config.request_seconds,
        position=dataset.position[chosen],
        weight=propensity_weights(dataset.propensity[chosen], config.propensity_cap),
        context=dataset.context[chosen],
    )
    length = max(config.history_length, query_history)
    history = past_histories(dataset, split, requests.user, requests.timestamp, known_splits, length, config.seed)
    requests = requests.with_past(history, past_items(dataset, split, requests.user, requests.timestamp, known_splits))
    released = dataset.items["created_at"].to_numpy(np.int64)
    requests = requests.with_news(released)
    history = requests.history
    queries = query_fn(requests.user, history[:, :query_history])
    rows, scores = search_released(
        search_fn, queries, config.retrieved, requests.seen_start, requests.seen_item, released, requests.timestamp
    )
    requests = dataclasses.replace(requests, history=history[:, : config.history_length])
    return RankingFold(requests, queries, rows, scores, user[positive], item[positive], released)


def past_histories(
    dataset: Dataset,
    split: str,
    user: np.ndarray,
    time: np.ndarray,
    known_splits: tuple[str, ...],
    length: int,
    seed: int,
) -> np.ndarray:
    """Positive items before each request, most recent first: those of the split, then those of the known splits.
    [R, L]"""
    within = positive_histories(dataset, (split,)).as_of(user, time, length)
    known = positive_histories(dataset, known_splits)
    if not dataset.schema.has_timestamps:
        known = known.shuffled(np.random.default_rng(seed))
    joined = np.concatenate([within, known.latest(user, length)], axis=1)
    order = np.argsort(joined == 0, axis=1, kind="stable")[:, :length]
    return np.take_along_axis(joined, order, 1)


def past_items(
    dataset: Dataset, split: str, user: np.ndarray, time: np.ndarray, known_splits: tuple[str, ...]
) -> list[np.ndarray]:
    """Every item that was shown to the user before each request, skipped ones included; one array a request."""
    groups = []
    for splits in (known_splits, (split,)):
        events = dataset.events[dataset.events["split"].isin([SPLIT_CODES[name] for name in splits])]
        columns = (events[name].to_numpy() for name in ("user", "item", "timestamp"))
        groups.append(Histories.from_events(*columns, user_rows=dataset.schema.user_rows))
    known, within = groups
    past = []
    for row, moment in zip(user, time, strict=True):
        start, end = within.offsets[row], within.offsets[row + 1]
        end = start + np.searchsorted(within.timestamps[start:end], moment, side="left")
        past.append(np.concatenate([known.items[known.offsets[row] : known.offsets[row + 1]], within.items[start:end]]))
    return past


def search_released(
    search_fn: SearchFunction,
    queries: np.ndarray,
    k: int,
    seen_start: np.ndarray,
    seen_item: np.ndarray,
    released: np.ndarray,
    time: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """`search` without what is not yet released at the time of each request.

    A catalogue that covers a whole log holds items from after most of its requests, which no index of that day could have
    returned. The index is asked for more than k where there are such items, and they are left out of its answer.

    Args:
        released: [N + 1] UTC seconds, 0 = always there. time: [R] UTC seconds, 0 = unknown, nothing is left out.

    Returns: as `search`; padded with row 0 where fewer than k remain.
    """
    dated = time[time > 0]
    late_items = int((released > dated.min()).sum()) if len(dated) else 0
    asked = min(k + late_items, ASKED_AT_MOST * k, max(k, len(released) - 1))
    rows, scores = search(search_fn, queries, asked, seen_start, seen_item)
    late = (released[rows] > time[:, None]) & (time[:, None] > 0)
    order = np.argsort(late | (rows == 0), axis=1, kind="stable")[:, :k]
    rows, scores = np.where(late, 0, rows), np.where(late, np.finfo(np.float32).min, scores)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1).astype(np.float32)


def search(
    search_fn: SearchFunction, queries: np.ndarray, k: int, seen_start: np.ndarray, seen_item: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The index's first k for every query without the seen items, in blocks of one shape."""
    sizes = np.diff(seen_start)
    width = int(sizes.max(initial=0))
    rows, scores = np.zeros((len(queries), k), np.int32), np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), SEARCH_BLOCK):
        part = slice(start, min(start + SEARCH_BLOCK, len(queries)))
        short = SEARCH_BLOCK - (part.stop - part.start)
        places = np.arange(width)[None, :]
        inside = places < sizes[part, None]
        where = np.where(inside, seen_start[part.start : part.stop, None] + places, 0)
        excluded = np.where(inside, seen_item[where], 0) if len(seen_item) else np.zeros(inside.shape, np.int32)
        found = search_fn(np.pad(queries[part], ((0, short), (0, 0))), k, np.pad(excluded, ((0, short), (0, 0))))
        rows[part], scores[part] = (np.asarray(array)[: part.stop - part.start] for array in found)
    return rows, scores
