"""Policies judged by a log with propensities: what pages of each order's first items would have earned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from pipeline.policy.first_pages import request_events
from pipeline.policy.off_policy import (
    LoggedActions,
    difference,
    doubly_robust,
    every_place,
    inverse_propensity,
    self_normalised,
)
from ranking.requests import Requests

CLIP = 50.0
"""Largest importance weight, unless said otherwise."""
MINIMUM_PAGES = 100


def page_propensities(dataset: Dataset, split: str, requests: Requests) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """The propensity of every impression of a fold's requests and the place that it is meant for, as `LoggedActions` has
    them. [E], [E]

    That of being on the page, place 0, where the log has it for all of a page; otherwise that of each place, if the page is
    known from the first place to the last. NaN where there is neither. Of an item shown twice, that of the first time.
    """
    owner, pages = requests.owner, len(requests)
    whole, placed = (_of_impressions(dataset, split, requests, values)
                     for values in (dataset.propensity, dataset.place_propensity))  # fmt: skip
    by_place = (np.bincount(owner, np.isnan(whole), minlength=pages) > 0) & every_place(owner, requests.position, pages)
    by_place &= np.bincount(owner, np.isnan(placed), minlength=pages) == 0
    return np.where(by_place[owner], placed, whole), np.where(by_place[owner], requests.position, 0)


def _of_impressions(dataset: Dataset, split: str, requests: Requests, values: NDArray) -> NDArray[np.float64]:
    """A number of the log's events [all of them] for every impression; NaN where there is none. [E]"""
    inside, owner = request_events(dataset, split, requests)
    item, time = (dataset.events[name].to_numpy()[inside].astype(np.int64) for name in ("item", "timestamp"))
    width = dataset.schema.item_rows
    order = np.lexsort((time, owner * width + item))
    keys, first = np.unique((owner * width + item)[order], return_index=True)
    values = values[inside][order][first].astype(np.float64)
    asked = requests.owner * width + requests.item
    place = np.minimum(np.searchsorted(keys, asked), max(len(keys) - 1, 0))
    found = np.isin(asked, keys)
    return np.where(found, values[place] if len(keys) else np.nan, np.nan)


def whole_pages(dataset: Dataset, split: str, requests: Requests) -> NDArray[np.int64]:
    """Which requests are pages that can be judged: those all of whose impressions have a propensity."""
    missing = np.isnan(page_propensities(dataset, split, requests)[0])
    missed = np.bincount(requests.owner[missing], minlength=len(requests))
    return np.flatnonzero((missed == 0) & (np.diff(requests.start) > 0))


def judge_pages(
    requests: Requests,
    propensity: NDArray,
    orders: Mapping[str, NDArray],
    chance: NDArray,
    rows: NDArray,
    *,
    reward: str = "click",
    size: int | None = None,
    clip: float | None = CLIP,
    place: NDArray | None = None,
) -> dict[str, Any]:
    """IPS, SNIPS and DR of policies that show the first `size` items of an order, and of their difference.

    The value is that of a page: the sum over its items of what each earns when shown, whichever place it has. An item
    that the policy shows but the log never could (an unreleased one, or one seen before) is in no order.

    Args:
        requests: R pages with their impressions. propensity: [E], of each impression.
        orders: two policies, name -> item rows [R, T], best first; differences are the first less the second.
        chance: [R, T], the reward model: what each of `rows` [R, T] would earn.
        reward: the label that is earned. size: items a page; None = as many as the log's pages show on average.
        clip: largest weight, None = none. place: [E], see `page_propensities`.

    Returns:
        {reward, size, pages, impressions, clip, logged: what the log's own pages earned, policies: {name: {ips, snips, dr:
        {value, low, high, effective_actions, clipped}}}, difference: {ips, snips, dr: [difference, low, high]}}
    """
    owner, pages = requests.owner, len(requests)
    size = size or max(1, round(len(owner) / max(pages, 1)))
    earned = requests.labels[reward].astype(np.float64)
    estimates: dict[str, dict[str, Any]] = {}
    for name, ordered in orders.items():
        first = ordered[:, :size]
        shown = (first[owner] == requests.item[:, None]).any(axis=1).astype(np.float64)
        predicted = np.where(rows[owner] == requests.item[:, None], chance[owner], 0.0).sum(axis=1)
        wanted = (rows[:, :, None] == first[:, None, :]).any(axis=2) & (rows > 0)
        log = LoggedActions(
            owner, earned, propensity, shown, requests.user, predicted, np.where(wanted, chance, 0.0).sum(axis=1), place
        )
        estimates[name] = {
            "ips": inverse_propensity(log, clip=clip),
            "snips": self_normalised(log, actions=size, clip=clip),
            "dr": doubly_robust(log, clip=clip),
        }
    one, other = estimates.values()
    return {
        "reward": reward,
        "size": size,
        "pages": pages,
        "impressions": len(owner),
        "clip": clip,
        "logged": float(earned.sum() / max(pages, 1)),
        "policies": {
            name: {kind: estimate.summary() for kind, estimate in kinds.items()} for name, kinds in estimates.items()
        },
        "difference": {kind: list(difference(one[kind], other[kind])) for kind in one},
    }
