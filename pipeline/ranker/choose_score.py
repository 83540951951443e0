"""The weights of the ranking score: heads and retrieval score against each other, by NDCG@10 of held-out requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import order_by
from pipeline.ranker.request_quality import wanted_items
from ranking.array_ops import numpy_ops
from ranking.config import RankerSpec, RankingConfig
from ranking.score import above_padding, weighted_score

CUTOFF, MOST_REQUESTS = 10, 3000
SHARES = (0.25, 0.5, 1.0)
"""Tried spread of a head's part of the score over that of the clicks'."""
BLENDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Tried spread of the retrieval score's part over that of the heads'."""


def choosing_requests(held_out: RankingFold) -> RankingFold:
    """The held-out requests that a score and a policy are chosen on: those that chose anything, evenly drawn over the days
    where there are more than `MOST_REQUESTS`."""
    wanted = np.flatnonzero(wanted_items(held_out.requests, held_out.released).counts)
    return held_out.take(wanted[:: max(1, math.ceil(len(wanted) / MOST_REQUESTS))])


def choose_score(
    spec: RankerSpec, asked: RankingFold, told: Mapping[str, np.ndarray], config: RankingConfig
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Weights and blend with the best NDCG@10 over held-out requests, each judged by what was chosen in it.

    The search starts from the clicks alone, and from the retrieval order alone, so that what is chosen loses to neither on
    these requests; then it tries the blend, each head in turn, and the blend again (see `search_weights`).

    Args:
        asked: see `choosing_requests`. told: the ranker's calibrated probabilities, {head: [R, T]}.

    Returns: weights of the heads, blend, and the NDCG@10 of the `score`, the `click` head and the `retrieval_order`.
    """
    if config.score_weights or not len(asked.requests):
        return dict(config.score_weights) or {"click": 1.0}, config.score_blend, {}
    rows, relevant = asked.rows, wanted_items(asked.requests, asked.released)

    def quality(score: np.ndarray) -> float:
        return mean_over_users(ndcg_at_k(order_by(rows, score)[:, :CUTOFF], relevant, CUTOFF))

    standardised = standardised_scores(spec, rows, asked.scores)
    probabilities = {head: told[head].astype(np.float64) for head in spec.heads}
    weights, blend = search_weights(probabilities, standardised, rows > 0, quality)
    figures = {
        "score": quality(weighted_score(probabilities, weights, blend, standardised)),
        "click": quality(probabilities["click"]),
        "retrieval_order": quality(standardised),
    }
    return weights, blend, figures


def score_of(
    spec: RankerSpec, asked: RankingFold, told: Mapping[str, np.ndarray], weights: Mapping[str, float], blend: float
) -> np.ndarray:
    """The score that a serving form of these weights gives to the same requests. f32 [R, T]"""
    standardised = standardised_scores(spec, asked.rows, asked.scores)
    score = weighted_score(told, {head: weights.get(head, 0.0) for head in spec.heads}, blend, standardised)
    return np.where(asked.rows > 0, above_padding(score, ops=numpy_ops), -1.0).astype(np.float32)


def standardised_scores(spec: RankerSpec, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Retrieval scores as the serving form standardises them; 0 where there is no candidate."""
    return np.where(rows > 0, (scores.astype(np.float64) - spec.score_center) / spec.score_scale, 0.0)


def search_weights(
    probabilities: dict[str, np.ndarray],
    standardised: np.ndarray,
    exists: np.ndarray,
    quality: Callable[[np.ndarray], float],
) -> tuple[dict[str, float], float]:
    """Coordinate search over weights that are measured by the spread they give to the score.

    Args:
        probabilities: {head: [Q, T]}, with `click`. standardised: retrieval scores [Q, T]. exists: bool [Q, T].
        quality: of a score [Q, T], larger is better.

    Returns: weights and blend. An equal of what was found before never replaces it, so that simpler scores win ties.
    """
    spread = lambda values: float(values[exists].std()) or 1.0  # noqa: E731
    unit = spread(probabilities["click"])
    heads = [head for head in probabilities if head != "click" and probabilities[head][exists].std() > 0]
    best: dict[str, Any] = {"quality": -np.inf}

    def try_out(weights: dict[str, float], ratio: float) -> None:
        parts = weighted_score(probabilities, weights, 0.0, standardised)
        blend = _rounded(ratio * spread(parts) / spread(standardised)) if weights else ratio
        found = quality(weighted_score(probabilities, weights, blend, standardised))
        if found > best["quality"]:
            best.update(quality=found, weights=weights, ratio=ratio, blend=blend)

    try_out({}, 0.1)
    try_out({"click": 1.0}, 0.0)
    if not best["weights"]:
        for ratio in BLENDS:
            try_out({"click": 1.0}, ratio)
    for _ in range(2):
        for ratio in (0.0, *BLENDS):
            if best["weights"]:
                try_out(best["weights"], ratio)
        for head in heads:
            sign = -1.0 if head == "skip" else 1.0
            start = dict(best["weights"]) or {"click": 1.0}
            for share in SHARES:
                weight = _rounded(sign * share * unit / spread(probabilities[head]))
                try_out({**start, head: weight}, best["ratio"] if best["weights"] else BLENDS[-1])
    return dict(best["weights"]), float(best["blend"])


def _rounded(value: float) -> float:
    """Two significant digits: more would be noise."""
    return float(f"{value:.2g}")
