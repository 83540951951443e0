"""Requests to learn from: a user's events of one sitting, merged to one impression an item, with what was known before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray


@dataclasses.dataclass(frozen=True)
class Requests:
    """R requests; their impressions and seen items in compressed form: those of request r are `start[r]:start[r + 1]`.

    Shapes: `user` int32 [R], `timestamp` int64 [R], `history` int32 [R, L] (most recent first, padded with 0), `context`
    int32 [R, C] codes (0 = unknown); of the impressions `start` int64 [R + 1], `item` int32 [E], `labels` {head: f32
    [E]}, `known` {head: bool [E]}, `position` int32 [E] (place on the page from 1, 0 = unknown), `weight` f32 [E]; of
    the past `seen_start` int64 [R + 1], `seen_item` int32 [S].
    """

    user: Array
    timestamp: Array
    history: Array
    context: Array
    start: Array
    item: Array
    labels: dict[str, Array]
    known: dict[str, Array]
    position: Array
    weight: Array
    seen_start: Array
    seen_item: Array

    def __len__(self) -> int:
        return len(self.user)

    @property
    def owner(self) -> Array:
        """int64 [E]: the request of each impression."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def take(self, chosen: Array) -> Requests:
        """The requests with the given indices, in that order."""
        chosen = np.asarray(chosen, np.int64)
        start, event = _select(self.start, chosen)
        seen_start, seen = _select(self.seen_start, chosen)
        return Requests(
            user=self.user[chosen],
            timestamp=self.timestamp[chosen],
            history=self.history[chosen],
            context=self.context[chosen],
            start=start,
            item=self.item[event],
            labels={head: values[event] for head, values in self.labels.items()},
            known={head: values[event] for head, values in self.known.items()},
            position=self.position[event],
            weight=self.weight[event],
            seen_start=seen_start,
            seen_item=self.seen_item[seen],
        )

    def with_past(self, history: Array, seen: list[Array]) -> Requests:
        """The same requests with their histories [R, L] and one array of seen item rows each."""
        seen_start = np.concatenate([[0], np.cumsum([len(rows) for rows in seen])]).astype(np.int64)
        rows = np.concatenate([np.zeros(0, np.int32), *seen]).astype(np.int32)
        return dataclasses.replace(self, history=history, seen_start=seen_start, seen_item=rows)

    def with_news(self, released: Array) -> Requests:
        """Only the requests that show something to learn from: an item that was released by then and not seen before.

        A session that a log holds twice, or that repeats an earlier one, so counts once.

        Args:
            released: [N + 1], time of each item's release, 0 = always there.
        """
        width = len(released)
        seen = np.repeat(np.arange(len(self)), np.diff(self.seen_start)) * width + self.seen_item
        late = (released[self.item] > self.timestamp[self.owner]) & (self.timestamp[self.owner] > 0)
        news = ~late & ~np.isin(self.owner * width + self.item, seen)
        return self.take(np.flatnonzero(np.bincount(self.owner[news], minlength=len(self))))


def _select(start: Array, chosen: Array) -> tuple[Array, Array]:
    """Offsets of the chosen groups, and the positions of their members."""
    sizes = np.diff(start)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return offsets, np.repeat(start[chosen] - offsets[:-1], sizes) + np.arange(offsets[-1])


def group_requests(
    user: ArrayLike,
    item: ArrayLike,
    timestamp: ArrayLike,
    labels: Mapping[str, ArrayLike],
    window_seconds: int,
    *,
    position: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    context: ArrayLike | None = None,
) -> Requests:
    """Groups a fold's events into requests without a past; repeats of an item in a request are merged.

    A merged label is the largest of those known; an item that was chosen is no `skip`, whatever came first. Position and
    weight are those of the first event that shows the item, context that of the request's first event.

    Args:
        user, item, timestamp: columns [E] of the fold, any order.
        labels: {head: [E]}; NaN = this event says nothing about it.
        window_seconds: events less than this after a request's first event belong to it; 0 = one request a user.
        position, weight: columns [E]; None = unknown and 1. context: codes [E, C].
    """
    user, item, timestamp = (np.asarray(column) for column in (user, item, timestamp))
    order = np.lexsort((timestamp, user))
    user, item, timestamp = user[order], item[order], timestamp[order]
    places = np.zeros(len(user), np.int32) if position is None else np.asarray(position, np.int32)[order]
    weights = np.ones(len(user), np.float32) if weight is None else np.asarray(weight, np.float32)[order]
    codes = np.zeros((len(user), 0), np.int32) if context is None else np.asarray(context, np.int32)[order]
    first = np.zeros(len(user), bool)
    begun_user, begun_time = -1, 0
    for event in range(len(user)):
        late = window_seconds > 0 and timestamp[event] >= begun_time + window_seconds
        if user[event] != begun_user or late:
            first[event], begun_user, begun_time = True, user[event], timestamp[event]
    owner = np.cumsum(first) - 1
    width = int(item.max(initial=0)) + 1
    pair, earliest, merged = np.unique(owner * width + item, return_index=True, return_inverse=True)
    merged_labels, known = {}, {}
    for head, column in labels.items():
        values = np.asarray(column, np.float32)[order]
        told = np.isfinite(values)
        largest = np.full(len(pair), -np.inf, np.float32)
        np.maximum.at(largest, merged[told], values[told])
        known[head] = np.isfinite(largest)
        merged_labels[head] = np.where(known[head], largest, 0).astype(np.float32)
    if {"skip", "click"} <= set(merged_labels):
        merged_labels["skip"] = np.where(merged_labels["click"] > 0, 0, merged_labels["skip"]).astype(np.float32)
    start = np.searchsorted(pair // width, np.arange(first.sum() + 1)).astype(np.int64)
    return Requests(
        user=user[first].astype(np.int32),
        timestamp=timestamp[first].astype(np.int64),
        history=np.zeros((int(first.sum()), 0), np.int32),
        context=codes[first],
        start=start,
        item=(pair % width).astype(np.int32),
        labels=merged_labels,
        known=known,
        position=places[earliest],
        weight=weights[earliest],
        seen_start=np.zeros_like(start),
        seen_item=np.zeros(0, np.int32),
    )
