"""What policies cost and bring: diversity against NDCG, exposure of groups of items and of users."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from pipeline.metrics.list_metrics import exposure, group_shares, intra_list_distance, intra_list_diversity
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.segments import MINIMUM_USERS
from pipeline.policy.pages import RankedVisits
from pipeline.ranker.request_quality import with_intervals
from ranking.exposure import find_floor, find_group_boost
from ranking.policy import Policy

PAGE = 10
LAMBDAS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4)
DPPS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
CHOSEN = (("mmr", "mmr_lambda", 1.0), ("dpp", "dpp_strength", 0.0))
"""Of each way to diversity: its points, what is chosen of them, and the weight that does nothing."""
RAISES = (1.1, 1.25, 1.5)
"""Shares of the exposure that boosts are tried for, as multiples of what the protected group has anyway."""
MINIMUM_VISITS = 100
"""Of fewer visits nobody can tell what diversity costs."""


def trade_off(ranked: RankedVisits, cost: float) -> dict[str, Any]:
    """NDCG@10 and distance within pages for rising diversity, and the most of it whose cost stays below a bound.

    Args:
        ranked: visits that the ranker has not learned from. cost: share of NDCG@10, visit by visit, that may be lost.

    Returns:
        {"plain", "mmr": [...], "dpp": [...]}: points {weight, ndcg@10, distance, cost: see `smooth_costs`}; "mmr_lambda" and
        "dpp_strength": the strongest whose smoothed cost is within the bound, 1 and 0 where none is; and where nothing can be
        known of costs, which "reason" then says.
    """
    plain = _point(ranked, ranked.pages(Policy(), PAGE))
    result: dict[str, Any] = {"plain": plain, "mmr": [], "dpp": [], "mmr_lambda": 1.0, "dpp_strength": 0.0}
    for (kind, name, nothing), weights in zip(CHOSEN, (LAMBDAS, DPPS), strict=True):
        policies = [Policy(mmr_lambda=weight) if kind == "mmr" else Policy(dpp=weight) for weight in weights]
        points = [_point(ranked, ranked.pages(policy, PAGE)) for policy in policies]
        strengths = np.array([(1 - weight) / weight if kind == "mmr" else weight for weight in weights])
        lost = np.array([1 - point["ndcg@10"] / plain["ndcg@10"] if plain["ndcg@10"] else 0.0 for point in points])
        smooth = smooth_costs(strengths, lost)
        result[kind] = [
            {"weight": weight, **point, "cost": float(share)}
            for weight, point, share in zip(weights, points, smooth, strict=True)
        ]
        if not (reason := unknown_costs(plain["ndcg@10"], len(ranked.visits))):
            result[name] = strongest(result[kind], cost, nothing)
    return {**result, "reason": reason} if reason else result


def strongest(points: Sequence[Mapping[str, float]], cost: float, nothing: float) -> float:
    """The weight of the last point whose cost is within the bound; `nothing` where none is.

    Example:
        >>> points = [{"weight": 0.9, "cost": 0.01}, {"weight": 0.7, "cost": 0.03}]
        >>> strongest(points, 0.02, 1.0), strongest(points, 0.05, 1.0), strongest(points, 0.0, 1.0)
        (0.9, 0.7, 1.0)
    """
    return next((point["weight"] for point in reversed(points) if point["cost"] <= cost), nothing)


def unknown_costs(quality: float, visits: int) -> str:
    """Why visits cannot tell what diversity costs; "" where they can.

    Args:
        quality: NDCG@10 of their plain order, of which a share may be lost.

    Example:
        >>> unknown_costs(0.2, 500), unknown_costs(0.0, 500)
        ('', 'no visit chose anything that its plain page shows')
    """
    if visits < MINIMUM_VISITS:
        return f"{visits} held-out visits are too few to tell, {MINIMUM_VISITS} are needed"
    return "" if quality > 0 else "no visit chose anything that its plain page shows"


def smooth_costs(strengths: NDArray, costs: NDArray) -> NDArray[np.float64]:
    """Costs as a curve a x + b x^2 of the strengths x, with a and b not negative, by least squares.

    What a little diversity costs drowns in the chance of a thousand visits; that of a lot of it does not, and both lie on one
    curve through nothing at no strength.

    Example: what was measured at 1 is chance, says the rest.
        >>> smooth_costs(np.array([1.0, 2.0, 4.0]), np.array([-0.01, 0.04, 0.16])).round(2).tolist()
        [0.01, 0.04, 0.16]
    """
    powers = np.stack([strengths, strengths**2], axis=1)
    return powers @ nnls(powers, costs)[0]


def _point(ranked: RankedVisits, pages: NDArray) -> dict[str, float]:
    return {
        "ndcg@10": mean_over_users(ndcg_at_k(pages, ranked.visits.relevant, PAGE)),
        "distance": mean_over_users(intra_list_distance(pages, ranked.tokens)),
    }


def judge_diversity(
    ranked: RankedVisits,
    policy: Policy,
    dpp: float,
    vectors: NDArray | None,
    seed: int,
    people: RankedVisits | None = None,
) -> dict[str, Any]:
    """The chosen policies against none on visits that nothing was chosen by.

    Args:
        people: the same users asked once, and judged by all that they chose; None = not told.

    Returns:
        {"k", "visits", "policy": weights, "default" and "dpp": {"ndcg@10", "distance", "content_distance": {"before",
        "after", "change": relative}, "ndcg_difference": [mean, low, high], a 95 % interval by resampling users with all
        their visits, and "by_user": {"ndcg@10", "distance"}}}. `distance` is by the served tokens
        (`intra_list_distance`), `content_distance` by the feature store's vectors (`intra_list_diversity`).
    """
    before = ranked.pages(Policy(), PAGE)
    result: dict[str, Any] = {"k": PAGE, "visits": len(ranked.visits), "policy": policy.weights()}
    plain = None if people is None else _point(people, people.pages(Policy(), PAGE))
    for name, tried in (("default", policy), ("dpp", Policy(dpp=dpp))):
        result[name] = _compare(ranked, before, ranked.pages(tried, PAGE), vectors, seed)
        if people is not None and plain is not None:
            after = _point(people, people.pages(tried, PAGE))
            result[name]["by_user"] = {measure: _change(plain[measure], after[measure]) for measure in plain}
    result["dpp"]["strength"] = dpp
    return result


def _compare(ranked: RankedVisits, before: NDArray, after: NDArray, vectors: NDArray | None, seed: int) -> dict[str, Any]:
    quality = [ndcg_at_k(pages, ranked.visits.relevant, PAGE) for pages in (before, after)]
    measures = {"ndcg@10": quality, "distance": [intra_list_distance(pages, ranked.tokens) for pages in (before, after)]}
    if vectors is not None:
        measures["content_distance"] = [intra_list_diversity(pages, vectors, PAGE) for pages in (before, after)]
    result: dict[str, Any] = {name: _change(*map(mean_over_users, pair)) for name, pair in measures.items()}
    return {**result, **with_intervals({"ndcg_difference": quality[1] - quality[0]}, ranked.visits.users, seed)}


def _change(before: float, after: float) -> dict[str, float]:
    return {"before": before, "after": after, "change": after / before - 1 if before else float("nan")}


def judge_fairness(
    ranked: RankedVisits,
    tuning: RankedVisits,
    protected: str,
    user_group: NDArray | None = None,
    group_names: list[str] | None = None,
    column: str = "",
    significance: float = Policy().significance,
) -> dict[str, Any]:
    """What it costs to show a group of items as much as people choose it, by a floor in every page and by one boost.

    Args:
        ranked: the visits that are judged; the boost is found on their scores, as a server finds it on its traffic: what
            is shown needs no label. tuning: earlier visits, whose choices say what share is fair.
        protected: what the protected group is called.
        user_group: int [U + 1] codes of users' groups; group_names: of the codes; column: what they are groups of.
        significance: of floors, as the released policy has it.

    Returns:
        {"protected", "share_of_catalogue", "share_of_choices", "target", "policies": {"none", "floor", "boost":
        {"ndcg@10", "cost": relative loss, "exposure_share", "disparity": exposure share over share of choices, 1 = as
        much as people choose}}, "raised": the same figures, with "target" and "boost", of boosts to `RAISES` times what the
        group has anyway, "users": see `judge_user_groups`}. The target is the group's share of the choices of `tuning`.
    """
    group = np.asarray(ranked.facts.protected, bool)
    # By the group as it was then: an item that was chosen a lot is rare no longer.
    target = float(np.asarray(tuning.facts.protected, bool)[tuning.visits.relevant.rows].mean())
    merit = float(group[ranked.visits.relevant.rows].mean())
    rows, scores = ranked.visits.rows, ranked.visits.scores
    boost_to = lambda share: find_group_boost(scores, rows > 0, group[rows], share, PAGE)  # noqa: E731
    boost = boost_to(target)
    policies = {
        "none": Policy(),
        "floor": Policy(group_share=target, significance=significance),
        "boost": Policy(group_boost=boost),
    }
    result: dict[str, Any] = {
        "protected": protected,
        "share_of_catalogue": float(group[1:].mean()),
        "share_of_choices": merit,
        "target": target,
        "boost": boost,
        "policies": {},
        "raised": [],
    }
    plain = mean_over_users(ndcg_at_k(ranked.pages(Policy(), PAGE), ranked.visits.relevant, PAGE))

    def figures(policy: Policy) -> dict[str, float]:
        pages = ranked.pages(policy, PAGE)
        quality, share = mean_over_users(ndcg_at_k(pages, ranked.visits.relevant, PAGE)), _share(pages, group)
        cost, disparity = (1 - quality / plain if plain else np.nan), (share / merit if merit else np.nan)
        return {"ndcg@10": quality, "cost": cost, "exposure_share": share, "disparity": disparity}

    result["policies"] = {name: figures(policy) for name, policy in policies.items()}
    for raised in RAISES:
        share = raised * result["policies"]["none"]["exposure_share"]
        if 0 < share < 1:
            boost = boost_to(share)
            result["raised"].append({"target": share, "boost": boost, **figures(Policy(group_boost=boost))})
    if user_group is not None and group_names is not None:
        result["users"] = {"column": column, **judge_user_groups(ranked, user_group, group_names, significance)}
    return result


def judge_user_groups(
    ranked: RankedVisits, user_group: NDArray, group_names: list[str], significance: float = Policy().significance
) -> dict[str, Any]:
    """How differently groups of users are served, before and after floors that bring their shares of protected items
    together: each group that is shown less of them than all users are on average gets the floor that brings it there.

    Returns:
        {"groups": {name: {"users", "ndcg@10": [before, after], "protected_share": [before, after], "floor"}}, "gap":
        {"ndcg@10": [before, after], "protected_share": [before, after]}, "cost": relative loss of NDCG@10}; a gap is the
        largest figure less the smallest. Groups of fewer users than `MINIMUM_USERS` are left out.
    """
    group = np.asarray(ranked.facts.protected, bool)
    count = len(group_names)
    mine, plain = user_group[ranked.visits.users], ranked.pages(Policy(), PAGE)
    average, floors = _share(plain, group), np.zeros(count, np.float32)
    for code in range(count):
        inside = np.flatnonzero(mine == code)
        if len(inside) >= MINIMUM_USERS:
            floors[code] = find_floor(functools.partial(_share_with, ranked.take(inside), group, significance), average)
    pages = [plain, ranked.pages(Policy(significance=significance), PAGE, group_share=floors[mine])]
    quality = [ndcg_at_k(shown, ranked.visits.relevant, PAGE) for shown in pages]
    groups = {}
    for code, name in enumerate(group_names):
        inside = mine == code
        if inside.sum() >= MINIMUM_USERS:
            groups[name] = {
                "users": int(inside.sum()),
                "ndcg@10": [mean_over_users(values[inside]) for values in quality],
                "protected_share": [_share(shown[inside], group) for shown in pages],
                "floor": float(floors[code]),
            }
    means = [mean_over_users(values) for values in quality]
    return {"groups": groups, "gap": _gaps(groups), "cost": 1 - means[1] / means[0] if means[0] else float("nan")}


def _share_with(ranked: RankedVisits, group: NDArray, significance: float, floor: float) -> float:
    return _share(ranked.pages(Policy(group_share=floor, significance=significance), PAGE), group)


def _gaps(groups: dict[str, Any]) -> dict[str, list[float]]:
    gaps = {}
    for name in ("ndcg@10", "protected_share"):
        values = np.array([figures[name] for figures in groups.values()])
        gaps[name] = (values.max(axis=0) - values.min(axis=0)).tolist() if len(values) else [float("nan")] * 2
    return gaps


def _share(pages: NDArray, group: NDArray) -> float:
    """Share of the pages' exposure that the group's items have."""
    return float(group_shares(exposure(pages, len(group) - 1), group.astype(np.int64), 2)[1])
