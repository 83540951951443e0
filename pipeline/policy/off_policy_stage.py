"""Off-policy estimates of a run: its ranked order against the retrieval order, on the pages of its test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from pipeline.policy.first_pages import first_pages
from pipeline.policy.logged_pages import CLIP, MINIMUM_PAGES, judge_pages, page_propensities, whole_pages
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import order_by
from ranking.requests import Requests

ALTERNATIVES = 0.95
"""Share of the impressions that were either clicked or skipped, from which on what is not skipped counts as clicked."""


def clicked_or_skipped(requests: Requests) -> bool:
    """Whether a click is the complement of a skip in a log: no impression may be just seen."""
    told = {head: requests.labels.get(head, np.zeros(len(requests.item))) > 0 for head in ("click", "skip")}
    return bool(len(requests.item)) and float((told["click"] != told["skip"]).mean()) >= ALTERNATIVES


def estimate_off_policy(
    dataset: Dataset,
    fold: RankingFold,
    found: Mapping[str, NDArray],
    heads: Sequence[str],
    *,
    split: str = "test",
    reward: str = "click",
    size: int | None = None,
    clip: float | None = CLIP,
    window_seconds: int = 0,
) -> dict[str, Any] | None:
    """What pages of the ranker's first items would have earned, and pages of the index's; see `judge_pages`.

    Of a request that holds several pages of the log, the first counts; see `first_pages`.

    The reward model of DR is the ranker's own: of a click 1 − P(skip) where it has learned skips, which it knows of shown
    items alone, as this question does, and what is shown is clicked or skipped (`ALTERNATIVES`); else the calibrated
    probability of the reward among all candidates.

    Args:
        fold: requests of the split, with what the index answered. found: the ranker's answer to them, {head or `score`:
            [R, T]}. heads: those that were trained. window_seconds: see `group_requests`.

    Returns: as `judge_pages`, with `later_impressions`, those that were not on a first page.
        None where fewer than `MINIMUM_PAGES` pages have all their propensities.
    """
    if not (np.isfinite(dataset.propensity) | np.isfinite(dataset.place_propensity)).any():
        return None
    first, later = first_pages(dataset, split, fold.requests, window_seconds)
    fold = dataclasses.replace(fold, requests=first)
    chosen = whole_pages(dataset, split, first)
    if len(chosen) < MINIMUM_PAGES:
        return None
    pages = fold.take(chosen)
    propensity, place = page_propensities(dataset, split, pages.requests)
    complement = reward == "click" and "skip" in heads and clicked_or_skipped(pages.requests)
    chance = (1 - found["skip"] if complement else found[reward])[chosen]
    orders = {"ranked": order_by(pages.rows, found["score"][chosen]), "retrieval": pages.rows}
    judged = judge_pages(
        pages.requests, propensity, orders, chance.astype(np.float64), pages.rows, reward=reward, size=size, clip=clip,
        place=place,
    )  # fmt: skip
    return {**judged, "later_impressions": later}
