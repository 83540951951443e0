"""Re-ranking: filters, adjustments, caps, diversity and exploration, from scored candidates to a page."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from keras import ops as keras_ops

from ranking.adjustments import BUCKETS, freshness, score_range
from ranking.novelty import novel_places
from ranking.page import PageInputs, fill_page
from ranking.policy import BOUNDS, Policy

NO_SCORE = -1.0
"""Score of a place that stays empty; that of padding in a ranker's answer."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Ranked candidates of B requests, and what policies look at. Whatever is None plays no part.

    Attributes:
        rows: int32 [B, K], 0 = padding, in retrieval order: of equal scores the earlier comes first.
        scores: f32 [B, K].
        kept: bool [B, K], see `ranking.filters`; None = all but padding.
        age_days, dated: f32 [B, K] at the time of the request and bool [B, K], whether it is known.
        log_popularity: f32 [B, K], ln(1 + events).
        creator, category: int32 [B, K] codes, 0 = unknown.
        protected: bool [B, K], the group of `group_boost` and `group_share`.
        bucket: int32 [B, K], see `popularity_buckets`; target: f32 [B, 3], the user's shares of them.
        vectors: f32 [B, M, K, D] content, unit or zero, see `ranking.diversity.content_tokens`.
        deviation: f32 [B, K], see `ranking.exploration.posterior_std`.
        uniforms: f32 [B, k] in [0, 1), the request's randomness; None = nothing is left to chance.
    """

    rows: Any
    scores: Any
    kept: Any = None
    age_days: Any = None
    dated: Any = None
    log_popularity: Any = None
    creator: Any = None
    category: Any = None
    protected: Any = None
    bucket: Any = None
    target: Any = None
    vectors: Any = None
    deviation: Any = None
    uniforms: Any = None


class Page(NamedTuple):
    """What is shown: places among the candidates (-1 = none), rows (0), scores (-1) and propensities (0), all [B, k].

    The score is the adjusted one, in the ranker's units; the propensity is the probability with which this item was
    chosen for its place given the items above it, see `ranking.page.fill_page`.
    """

    places: Any
    rows: Any
    scores: Any
    propensities: Any


def rerank(candidates: Candidates, policy: Policy | Mapping[str, Any], k: Any, *, ops: Any = keras_ops) -> Page:
    """The first k places of each request under a policy.

    Filters, then `adjusted_scores`, then place by place caps, floors, diversity and exploration (`fill_page`). A policy
    that does none of the latter is a plain top k; with the default policy the page is that of the scores. Diversity says
    what is on a page, not where: it is shown in the order of the scores, unless floors or exploration say otherwise.

    Args:
        candidates: see `Candidates`.
        policy: settings, or their weights by name, each a number or a tensor of shape [] or [B].
        k: an int, or a scalar tensor where the page's length is an input of a graph; may exceed K.
        ops: `keras.ops` for a backend or a graph, `ranking.array_ops.numpy_ops` for NumPy at once. Same answers.

    Raises:
        ValueError: weights that are missing or unknown.

    Example: of one creator's items only the best is shown.
        >>> import numpy as np
        >>> from ranking.array_ops import numpy_ops
        >>> given = Candidates(np.array([[7, 8, 9]]), np.array([[0.75, 0.5, 0.25]]), creator=np.array([[1, 1, 2]]))
        >>> page = rerank(given, Policy(creator_cap=1), 3, ops=numpy_ops)
        >>> page.rows.tolist(), page.scores.tolist(), page.propensities.tolist()
        ([[7, 9, 0]], [[0.75, 0.25, -1.0]], [[1.0, 1.0, 0.0]])
    """
    if isinstance(policy, Policy):
        candidates = _used(candidates, policy)
    given = policy.weights() if isinstance(policy, Policy) else dict(policy)
    if set(given) != set(BOUNDS):
        raise ValueError(f"policy: must have the weights {', '.join(BOUNDS)}, received {', '.join(sorted(given))}")
    weights = {name: ops.reshape(ops.convert_to_tensor(given[name], dtype="float32"), (-1, 1)) for name in BOUNDS}
    rows, scores = candidates.rows, ops.cast(candidates.scores, "float32")
    kept = rows > 0 if candidates.kept is None else ops.logical_and(candidates.kept, rows > 0)
    spread = score_range(scores, kept, ops=ops)
    scores = adjusted_scores(candidates, weights, scores, spread, ops=ops)
    inputs = page_inputs(candidates, scores, kept, spread, ops)
    places, propensities = _places(candidates, weights, inputs, k, ops)
    found = places >= 0
    # One more candidate at the end, which every empty place points to; also where there are no candidates at all.
    at = ops.where(found, places, ops.shape(rows)[1])
    more = [[0, 0], [0, 1]]
    return Page(
        places,
        ops.take_along_axis(ops.pad(rows, more), at, axis=1),
        ops.take_along_axis(ops.pad(scores, more, constant_values=NO_SCORE), at, axis=1),
        propensities,
    )


def _used(candidates: Candidates, policy: Policy) -> Candidates:
    """Without what a policy of known weights does not look at; a graph whose weights are inputs keeps everything."""
    needed = {
        "creator": policy.creator_cap > 0,
        "category": policy.category_cap > 0,
        "protected": policy.group_boost != 0 or policy.group_share > 0,
        "target": policy.calibration > 0,
        "vectors": policy.mmr_lambda < 1 or policy.dpp > 0,
        "deviation": policy.thompson > 0,
        "uniforms": policy.thompson > 0 or policy.epsilon > 0,
    }
    return dataclasses.replace(candidates, **{name: None for name, use in needed.items() if not use})


def adjusted_scores(candidates: Candidates, weights: Mapping[str, Any], scores: Any, spread: Any, *, ops: Any) -> Any:
    """`s + R (freshness exp(-age / days) - popularity ln(1 + events) + group_boost protected)`, R the range of scores."""
    added = scores * 0.0
    if candidates.age_days is not None:
        fresh = freshness(candidates.age_days, candidates.dated, weights["freshness_days"], ops=ops)
        added = added + weights["freshness"] * fresh
    if candidates.log_popularity is not None:
        added = added - weights["popularity"] * candidates.log_popularity
    if candidates.protected is not None:
        added = added + weights["group_boost"] * ops.cast(candidates.protected, "float32")
    return scores + spread * added


def page_inputs(candidates: Candidates, scores: Any, kept: Any, spread: Any, ops: Any) -> PageInputs:
    """The candidates as `fill_page` takes them."""
    bucket = None
    if candidates.target is not None:
        codes = ops.arange(BUCKETS, dtype="int32")[None, None, :]
        bucket = ops.cast(ops.cast(candidates.bucket, "int32")[:, :, None] == codes, "float32")
    return PageInputs(
        scores=scores,
        kept=kept,
        spread=spread,
        vectors=candidates.vectors,
        creator=candidates.creator,
        category=candidates.category,
        protected=candidates.protected,
        bucket=bucket,
        target=candidates.target,
        deviation=candidates.deviation,
        uniforms=candidates.uniforms,
    )


def _places(candidates: Candidates, weights: Mapping[str, Any], inputs: PageInputs, k: Any, ops: Any) -> tuple[Any, Any]:
    """The places of a page, by the cheapest of four ways that the weights allow."""
    best = lambda: best_places(inputs.scores, inputs.kept, k, ops)  # noqa: E731
    diverse, other = _reasons(candidates, weights, ops)
    some = ops.shape(inputs.scores)[1] > 0
    simple = best
    if diverse is not None:
        # What most releases do: diversity alone, without the books that caps and floors need at every place.
        alone = PageInputs(inputs.scores, inputs.kept, inputs.spread, vectors=inputs.vectors)
        given = (inputs.scores, inputs.kept, inputs.spread, inputs.vectors, weights["mmr_lambda"])
        alike = lambda: novel_places(*given, k, ops=ops)  # noqa: E731
        volume = lambda: fill_page(alone, weights, k, ops=ops)  # noqa: E731

        def either():
            places, propensities = ops.cond(ops.any(weights["dpp"] > 0), volume, alike)
            return by_score(inputs.scores, places, k, ops), propensities

        simple = lambda: ops.cond(ops.logical_and(diverse, some), either, best)  # noqa: E731
    if other is None:
        return simple()

    def stepwise():
        places, propensities = fill_page(inputs, weights, k, ops=ops)
        if diverse is None:
            return places, propensities
        free = ops.logical_or(weights["mmr_lambda"] < 1, weights["dpp"] > 0)
        for name in ("group_share", "epsilon", "thompson"):
            free = ops.logical_and(free, weights[name] <= 0)
        return ops.where(free, by_score(inputs.scores, places, k, ops), places), propensities

    return ops.cond(ops.logical_and(other, some), stepwise, simple)


def by_score(scores: Any, places: Any, k: Any, ops: Any) -> Any:
    """The chosen places [B, k] in the order of their scores [B, K], empty ones last.

    How far the items of a page are apart does not depend on their order, and what is liked best is looked for at the top.
    """
    theirs = ops.take_along_axis(scores, ops.maximum(places, 0), axis=1)
    order = ops.top_k(ops.where(places >= 0, theirs, -3.0e38), k)[1]
    return ops.take_along_axis(places, order, axis=1)


def _reasons(candidates: Candidates, weights: Mapping[str, Any], ops: Any) -> tuple[Any, Any]:
    """Whether diversity, and whether anything else, makes a place depend on those above it or on chance; None where
    nothing could."""
    diverse, other = [], []
    if candidates.vectors is not None:
        diverse += [weights["mmr_lambda"] < 1, weights["dpp"] > 0]
    for name in ("creator", "category"):
        if getattr(candidates, name) is not None:
            other.append(weights[f"{name}_cap"] > 0)
    if candidates.protected is not None:
        other.append(weights["group_share"] > 0)
    if candidates.target is not None:
        other.append(weights["calibration"] > 0)
    if candidates.uniforms is not None:
        other.append(weights["epsilon"] > 0)
        if candidates.deviation is not None:
            other.append(weights["thompson"] > 0)
    either = lambda reasons: functools.reduce(ops.logical_or, map(ops.any, reasons)) if reasons else None  # noqa: E731
    return either(diverse), either(other)


def best_places(scores: Any, kept: Any, k: Any, ops: Any) -> tuple[Any, Any]:
    """The places of the k best kept candidates, -1 beyond them, and propensities 1."""
    width = ops.shape(scores)[1]
    lowest = ops.cast(ops.where(kept, scores, 3.0e38) * 0.0, "float32") - 3.0e38
    # Lengths that are known stay numbers: a compiled graph of static shapes needs them so.
    known = isinstance(k, int) and isinstance(width, int)
    kept_places = min(k, width) if known else ops.minimum(k, width)
    best, places = ops.top_k(ops.where(kept, scores, lowest), kept_places)
    found = best > -3.0e38
    places = ops.where(found, ops.cast(places, "int32"), -1)
    more = [[0, 0], [0, k - kept_places]]
    return (
        ops.pad(places, more, constant_values=-1),
        ops.pad(ops.cast(found, "float32"), more, constant_values=0.0),
    )
