"""Which of a request's impressions were its first page: what a log holds of a day may have been shown on several pages."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from data.schema import EVENT_CODES, SPLIT_CODES
from pipeline.ranker.event_labels import event_labels
from ranking.requests import Requests

STAMPED_SECONDS = 10
"""A new item without a place, so long after the last, is of another page, where a log writes pages at one moment."""
SITTING_SECONDS = 1_800
"""The same where a log has a time for every item."""
AFTERWARDS = [EVENT_CODES[kind] for kind in ("like", "purchase", "rating", "share", "dislike")]
"""Kinds that show nothing: they belong to the page that showed the item, however late they come."""
AGAIN = [EVENT_CODES[kind] for kind in ("view", "skip")]
"""Kinds of which a page has one an item."""


def request_events(dataset: Dataset, split: str, requests: Requests) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Events of a split that belong to requests, in the order of user and time, and the request of each: [F], [F].

    Requests stand in the order of user and time; an event belongs to the user's last one that had begun.
    """
    inside = np.flatnonzero(dataset.events["split"].to_numpy() == SPLIT_CODES[split])
    user, time = (dataset.events[name].to_numpy()[inside].astype(np.int64) for name in ("user", "timestamp"))
    span = int(max(time.max(initial=0), requests.timestamp.max(initial=0))) + 1
    begun = requests.user.astype(np.int64) * span + requests.timestamp
    owner = np.searchsorted(begun, user * span + time, side="right") - 1
    theirs = owner >= 0
    theirs[theirs] = requests.user[owner[theirs]] == user[theirs]
    inside, time, owner = inside[theirs], time[theirs], owner[theirs]
    order = np.lexsort((time, owner))
    return inside[order], owner[order]


def first_pages(dataset: Dataset, split: str, requests: Requests, window_seconds: int) -> tuple[Requests, int]:
    """The same requests with the impressions of their first pages alone, and how many impressions that leaves out.

    What was known when a request began is what its first page was made with; what users saw later that day was made with
    more, and whether there is a second page may follow from what the first one earned. A second page begins where a place is
    taken, an item comes again (at another place, with another propensity, or as a second view or skip), or a new item without
    a place comes `STAMPED_SECONDS` or `SITTING_SECONDS` after the last new one. What is told of an item from then on counts
    only if it is no showing (a purchase) and the item is not shown again.

    Args:
        window_seconds: see `group_requests`.
    """
    event, owner = request_events(dataset, split, requests)
    time = dataset.events["timestamp"].to_numpy()[event].astype(np.int64)
    within = (time < requests.timestamp[owner] + window_seconds) | (window_seconds == 0)
    event, owner, time = event[within], owner[within], time[within]
    item, kind = (dataset.events[name].to_numpy()[event] for name in ("item", "event"))
    place, chance = dataset.position[event], _chances(dataset)[event]
    gap = STAMPED_SECONDS if _is_stamped(owner, item, time) else SITTING_SECONDS
    labels = {head: values[event] for head, values in event_labels(dataset).items() if head in requests.labels}
    kept = np.ones(len(requests.item), bool)
    told = {head: values.copy() for head, values in requests.labels.items()}
    known = {head: values.copy() for head, values in requests.known.items()}
    starts = np.searchsorted(owner, np.arange(len(requests) + 1))
    for request in range(len(requests)):
        part = slice(starts[request], starts[request + 1])
        end = _page_end(item[part], time[part], place[part], kind[part], chance[part], gap)
        if end == part.stop - part.start:
            continue
        later = np.arange(part.stop - part.start) >= end
        aside = np.isin(kind[part], AFTERWARDS)
        counts = ~later | (aside & ~np.isin(item[part], item[part][later & ~aside]))
        for at in range(requests.start[request], requests.start[request + 1]):
            mine = item[part] == requests.item[at]
            kept[at] = (mine & ~later).any()
            for head, values in labels.items():
                heard = values[part][mine & counts]
                heard = heard[np.isfinite(heard)]
                known[head][at], told[head][at] = len(heard) > 0, heard.max(initial=-np.inf) if len(heard) else 0.0
            if {"skip", "click"} <= set(told) and told["click"][at] > 0:
                told["skip"][at] = 0.0
    sizes = np.bincount(requests.owner[kept], minlength=len(requests))
    pages = dataclasses.replace(
        requests,
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        item=requests.item[kept],
        labels={head: values[kept] for head, values in told.items()},
        known={head: values[kept] for head, values in known.items()},
        position=requests.position[kept],
        weight=requests.weight[kept],
    )
    return pages, int((~kept).sum())


def _chances(dataset: Dataset) -> NDArray[np.float32]:
    return np.where(np.isfinite(dataset.propensity), dataset.propensity, dataset.place_propensity)


def _is_stamped(owner: NDArray, item: NDArray, time: NDArray) -> bool:
    """Whether most items share the moment at which a request first shows them with another one."""
    if not len(owner):
        return False
    _, first = np.unique(np.stack([owner, item]), axis=1, return_index=True)
    _, moment, together = np.unique(np.stack([owner, time])[:, first], axis=1, return_inverse=True, return_counts=True)
    return bool((together[moment.reshape(-1)] > 1).mean() > 0.5)


def _page_end(item: NDArray, time: NDArray, place: NDArray, kind: NDArray, chance: NDArray, gap: int) -> int:
    """How many of a request's events, in the order of time, come before its second page."""
    taken: set[int] = set()
    shown: dict[int, tuple[int, float, set[int]]] = {}
    newest = int(time[0]) if len(time) else 0
    for at in range(len(item)):
        if (known := shown.get(int(item[at]))) is not None:
            moved = min(place[at], known[0]) > 0 and place[at] != known[0]
            drawn = np.isfinite([chance[at], known[1]]).all() and chance[at] != known[1]
            again = moved or drawn or (kind[at] in AGAIN and kind[at] in known[2])
            known[2].add(int(kind[at]))
        else:
            again = int(place[at]) in taken if place[at] > 0 else time[at] - newest > gap
            shown[int(item[at])] = (int(place[at]), float(chance[at]), {int(kind[at])})
            taken.add(int(place[at]))
            newest = int(time[at])
        if again:
            # Items that stood above on both pages alike tell nothing, but are of the second one where it is written in order.
            above = at - max(int(place[at]) - 1, 0)
            begun = above if above > 0 and (place[above:at] == np.arange(1, at - above + 1)).all() else at
            # What the log writes at the same moment is of the same page, in whatever order it is written.
            moment = int(np.searchsorted(time, time[begun]))
            return moment if moment > 0 else begun
    return len(item)
