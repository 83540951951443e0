"""The full path for many requests: what the index proposes, what the ranker answers, and the order that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.metrics.examples import Requests
from pipeline.ranker.lists import QueryFunction, RankingFold, SearchFunction, search_released
from ranking.config import HEADS, RankingConfig

BLOCK, STEP = 256, 8
"""BLOCK: most requests a call. STEP: smaller batches are padded to a multiple of it, so that all calls share one shape."""


def answer(
    form: Callable[..., Mapping[str, Any]],
    users: np.ndarray,
    history: np.ndarray,
    candidates: np.ndarray,
    scores: np.ndarray,
    times: np.ndarray,
    ranks: np.ndarray | None = None,
    context: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The serving form's answer to many requests, in blocks of one shape. {every head of HEADS, score: [R, K]}

    `form` is a `RankingServingForm`, or calls one with more. `ranks` [R, K] are needed where the candidates are not all
    that was retrieved; `context` [R, C], None = unknown.
    """
    if not len(users):
        return {name: np.zeros(candidates.shape, np.float32) for name in (*HEADS, "score")}
    parts: list[dict[str, np.ndarray]] = []
    block = block_of(len(users))
    for start in range(0, len(users), block):
        part = slice(start, min(start + block, len(users)))
        rows = np.pad(np.arange(part.start, part.stop), (0, block - (part.stop - part.start)), mode="edge")
        found = form(
            users[rows],
            history[rows],
            candidates[rows],
            scores[rows],
            times[rows],
            None if ranks is None else ranks[rows],
            None if context is None else context[rows],
        )
        parts.append({name: np.asarray(value)[: part.stop - part.start] for name, value in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def block_of(requests: int) -> int:
    """How many are ranked at a time: as few calls as `BLOCK` allows, of requests that are hardly ever padding.

    Example:
        >>> [block_of(number) for number in (1, 256, 257, 393, 1025)]
        [8, 256, 136, 200, 208]
    """
    calls = math.ceil(requests / BLOCK)
    return STEP * math.ceil(requests / (STEP * calls))


def answer_fold(form: Callable[..., Mapping[str, Any]], fold: RankingFold) -> dict[str, np.ndarray]:
    """The answer to all that the index proposed for the requests of a fold. {every head of HEADS, score: [R, T]}"""
    asked = fold.requests
    given = (asked.user, asked.history, fold.rows, fold.scores, asked.timestamp)
    return answer(form, *given, context=asked.context)


def propose(
    requests: Requests,
    query_fn: QueryFunction,
    search_fn: SearchFunction,
    config: RankingConfig,
    released: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What the index answers to many requests, without what was seen or not yet released. rows, scores: [Q, T]

    `released` [N + 1]: UTC seconds of each item's release, 0 = always there.
    """
    queries = query_fn(requests.users, requests.history)
    seen = (requests.seen.offsets, requests.seen.rows)
    return search_released(search_fn, queries, config.retrieved, *seen, released, requests.timestamps)


def order_by(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The rows [Q, T] by falling score, equals in the order they stand in, padding last."""
    order = np.argsort(-np.where(rows > 0, scores, -np.inf), axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)
