"""A page, one place at a time: the best candidate that caps and floors leave, or another with a known probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras import ops as keras_ops

from ranking.adjustments import divergence_after
from ranking.diversity import LEAST_VOLUME, determinant_step, similarity_to, vector_sizes
from ranking.exploration import draw, epsilon_greedy, thompson_probabilities
from ranking.exposure import least_protected


@dataclasses.dataclass(frozen=True)
class PageInputs:
    """What a page is made of; whatever is None plays no part, and costs nothing in a graph.

    Attributes:
        scores: f32 [B, K], adjusted. kept: bool [B, K], what may be shown. spread: f32 [B, 1], the range of scores.
        vectors: f32 [B, M, K, D], unit or zero. creator, category: int [B, K], 0 = unknown, never capped.
        protected: bool [B, K]. bucket: f32 [B, K, G], one-hot, and target: f32 [B, G] shares, see
            `ranking.adjustments`. deviation: f32 [B, K] of the scores. uniforms: f32 [B, k] in [0, 1).
    """

    scores: Any
    kept: Any
    spread: Any
    vectors: Any = None
    creator: Any = None
    category: Any = None
    protected: Any = None
    bucket: Any = None
    target: Any = None
    deviation: Any = None
    uniforms: Any = None


def fill_page(inputs: PageInputs, weights: Mapping[str, Any], k: Any, *, ops: Any = keras_ops) -> tuple[Any, Any]:
    """Chooses candidates for the places 1 to k.

    At every place the candidates are those that are kept, not yet shown and within the caps; where the floor of the
    protected group asks for one of its items, only those, if there are any left. Of these the one of greatest utility

        u_i = lambda s_i + R (dpp ln d_i^2 - (1 - lambda) mean_j sim(i, j) - calibration JS_i)

    is chosen, j over what stands above and R the range of scores; with `thompson`, s_i is a normal variable around the
    score, drawn anew at every place; with `epsilon`, any candidate in its stead.

    Propensities: that of place p is the probability with which this item was chosen for place p *given the items above
    it*. Their product is the probability of the page; the first is that of the item at the top. They are those that the
    choice was drawn from, and 1 where nothing is left to chance.

    Args:
        weights: those of `ranking.policy.Policy`, each [1, 1] or [B, 1].
        k: an int, or a scalar tensor.

    Returns: places int32 [B, k] among the candidates, -1 where none is left that may be shown, and propensities f32
    [B, k], 0 there.
    """
    shape = ops.shape(inputs.scores)
    lines, width = shape[0], shape[1]
    blank = inputs.scores * 0.0
    on = lambda name: ops.any(weights[name] > 0)  # noqa: E731
    floor = _floors(inputs, weights, k, ops)
    numbers = ops.arange(k, dtype="int32")[None, :]
    state: dict[str, Any] = {
        "places": ops.zeros((lines, k), dtype="int32") - 1,
        "propensities": ops.zeros((lines, k), dtype="float32"),
        "open": inputs.kept,
    }
    sizes = None
    if inputs.vectors is not None:
        sizes = vector_sizes(inputs.vectors, ops=ops)
        state |= {"alike": blank, "volume": blank + 1.0}
        state["factor"] = ops.zeros((lines, k, width), dtype="float32")
    for name in ("creator", "category"):
        if getattr(inputs, name) is not None:
            state[name] = blank
    if inputs.protected is not None:
        state["protected"] = blank[:, :1]
    if inputs.target is not None:
        state["buckets"] = inputs.target * 0.0
    names = list(state)

    def step(number: Any, *values: Any) -> tuple[Any, ...]:
        now = dict(zip(names, values, strict=True))
        usable = _usable(inputs, weights, now, floor, numbers == number, ops)
        chances = _chances(inputs, weights, _utility(inputs, weights, now, number, ops), usable, ops)
        if inputs.uniforms is None:
            place = ops.cast(ops.argmax(chances, axis=1), "int32")
        else:
            uniform = ops.sum(ops.where(numbers == number, inputs.uniforms, 0.0), axis=1)
            place = draw(chances, uniform, ops=ops)
        found = ops.any(usable, axis=1)
        chosen = ops.logical_and(ops.arange(width, dtype="int32")[None, :] == place[:, None], found[:, None])
        hit = ops.cast(chosen, "float32")
        here = numbers == number
        place, chance = ops.where(found, place, -1), ops.sum(chances * hit, axis=1)
        now["places"] = ops.where(here, place[:, None], now["places"])
        now["propensities"] = ops.where(here, chance[:, None], now["propensities"])
        now["open"] = ops.logical_and(now["open"], ops.logical_not(chosen))
        for name in ("creator", "category"):
            if name in now:
                now[name] = now[name] + _same(getattr(inputs, name), hit, ops)
        if "protected" in now:
            now["protected"] = now["protected"] + ops.sum(
                hit * ops.cast(inputs.protected, "float32"), axis=1, keepdims=True
            )
        if "buckets" in now:
            now["buckets"] = now["buckets"] + ops.sum(inputs.bucket * hit[:, :, None], axis=1)
        if "alike" in now:
            kept = (now["alike"], now["volume"], now["factor"])
            wanted = ops.logical_or(ops.any(weights["mmr_lambda"] < 1), on("dpp"))
            now["alike"], now["volume"], now["factor"] = ops.cond(
                wanted, lambda: _look(inputs.vectors, sizes, hit, number, kept, on("dpp"), ops), lambda: kept
            )
        return (number + 1, *(now[name] for name in names))

    start = (ops.convert_to_tensor(0, dtype="int32"), *state.values())
    ended = ops.while_loop(lambda number, *_: number < k, step, start)
    final = dict(zip(names, ended[1:], strict=True))
    return final["places"], final["propensities"]


def _floors(inputs, weights, k, ops):
    if inputs.protected is None:
        return None
    share, significance = weights["group_share"], weights["significance"]
    none = ops.zeros((ops.shape(inputs.scores)[0], k), dtype="float32")
    wanted = lambda: none + least_protected(share, significance, k, ops=ops)  # noqa: E731
    return ops.cond(ops.any(share > 0), wanted, lambda: none)


def _usable(inputs, weights, now, floor, here, ops):
    usable = now["open"]
    for name in ("creator", "category"):
        if name in now:
            cap = weights[f"{name}_cap"]
            usable = ops.logical_and(usable, ops.logical_or(cap <= 0, now[name] < cap))
    if floor is None:
        return usable
    least = ops.sum(ops.where(here, floor, 0.0), axis=1, keepdims=True)
    theirs = ops.logical_and(usable, inputs.protected)
    bound = ops.logical_and(now["protected"] < least, ops.any(theirs, axis=1, keepdims=True))
    return ops.where(bound, theirs, usable)


def _utility(inputs, weights, now, number, ops):
    relevance = weights["mmr_lambda"]
    utility = relevance * inputs.scores
    if "alike" in now:
        alike = now["alike"] / ops.cast(ops.maximum(number, 1), "float32")
        utility = utility - inputs.spread * (1.0 - relevance) * alike
        volume = ops.log(ops.maximum(now["volume"], LEAST_VOLUME))
        utility = utility + inputs.spread * weights["dpp"] * volume
    if "buckets" in now:
        distance = divergence_after(inputs.target, now["buckets"], ops=ops)
        distance = ops.sum(inputs.bucket * distance[:, None, :], axis=2)
        utility = utility - inputs.spread * weights["calibration"] * distance
    return utility


def _chances(inputs, weights, utility, usable, ops):
    """The distribution that this place's item is drawn from, [B, K]; zeros where nothing may be shown."""
    width = ops.shape(utility)[1]
    lowest = ops.min(utility) - 1.0

    def greedy():
        best = ops.argmax(ops.where(usable, utility, lowest), axis=1)[:, None]
        first = ops.arange(width, dtype="int32")[None, :] == ops.cast(best, "int32")
        return ops.cast(ops.logical_and(first, usable), "float32")

    if inputs.uniforms is None:
        return greedy()
    chances = greedy()
    if inputs.deviation is not None:
        deviation = weights["thompson"] * weights["mmr_lambda"] * inputs.deviation
        sampled = lambda: thompson_probabilities(utility, deviation, usable, ops=ops)  # noqa: E731
        chances = ops.cond(ops.any(weights["thompson"] > 0), sampled, lambda: chances)
    return epsilon_greedy(chances, usable, weights["epsilon"], ops=ops)


def _look(vectors, sizes, hit, number, kept, determinant, ops):
    alike, volume, factor = kept
    nearest, overall = similarity_to(vectors, sizes, hit, ops=ops)
    volume, factor = ops.cond(
        determinant,
        lambda: determinant_step(overall, volume, factor, hit, number, ops=ops),
        lambda: (volume, factor),
    )
    return alike + nearest, volume, factor


def _same(codes, hit, ops):
    """1 for every candidate of the chosen one's code, 0 where it is unknown."""
    code = ops.sum(codes * ops.cast(hit, codes.dtype), axis=1, keepdims=True)
    return ops.cast(ops.logical_and(codes == code, codes > 0), "float32")
