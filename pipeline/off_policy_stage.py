"""Off-policy estimates of a run: its ranked order against the retrieval order, on the pages of its test split."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.logged_pages import CLIP, MINIMUM_PAGES, judge_pages, logged_pages, page_propensities
from pipeline.rank_requests import answer, order_by
from pipeline.ranking_lists import RankingFold
from ranking.serving_form import RankingServingForm

REWARDS = ("click", "like", "purchase")


def estimate_off_policy(
    dataset: Dataset,
    form: RankingServingForm,
    fold: RankingFold,
    seed: int,
    *,
    split: str = "test",
    reward: str = "click",
    size: int | None = None,
    clip: float | None = CLIP,
) -> dict[str, Any] | None:
    """What pages of the ranker's first items would have earned, and pages of the index's; see `judge_pages`.

    The reward model of DR is the ranker's own: of a click 1 − P(skip) where it has learned skips, which it knows of shown
    items alone, as this question does; else the calibrated probability of the reward among all candidates.

    Returns: None where fewer than `MINIMUM_PAGES` pages have all their propensities.
    """
    if not np.isfinite(dataset.propensity).any():
        return None
    pages = logged_pages(dataset, split, fold, seed)
    requests = pages.requests
    if len(requests) < MINIMUM_PAGES:
        return None
    propensity = page_propensities(dataset, split, requests)
    given = (requests.user, requests.history, pages.rows, pages.scores, requests.timestamp)
    found = answer(form, *given, context=requests.context)
    chance = 1 - found["skip"] if reward == "click" and "skip" in form.spec.heads else found[reward]
    orders = {"ranked": order_by(pages.rows, found["score"]), "retrieval": pages.rows}
    return judge_pages(
        requests, propensity, orders, chance.astype(np.float64), pages.rows, reward=reward, size=size, clip=clip
    )
