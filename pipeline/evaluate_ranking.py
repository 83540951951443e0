"""Judge the ranker on the test split: order against the retrieval order, probabilities against what happened."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.examples import Requests
from pipeline.metrics import mean_over_users, ndcg_at_k
from pipeline.probability_metrics import auc, expected_calibration_error, log_loss, reliability_curve
from pipeline.ranking_lists import QueryFunction, SearchFunction, retrieve_fold, search_released
from ranking.config import RankingConfig
from ranking.serving_form import RankingServingForm

BLOCK = 256
"""Requests ranked at a time; every call has this one shape."""


def answer(
    form: RankingServingForm,
    users: np.ndarray,
    history: np.ndarray,
    candidates: np.ndarray,
    scores: np.ndarray,
    times: np.ndarray,
    ranks: np.ndarray | None = None,
    context: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The serving form's answer to many requests, in blocks of one shape. {every head of HEADS, score: [R, K]}

    `ranks` [R, K] are needed where the candidates are not all that was retrieved; `context` [R, C], None = unknown.
    """
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(users), BLOCK):
        part = slice(start, min(start + BLOCK, len(users)))
        rows = np.pad(np.arange(part.start, part.stop), (0, BLOCK - (part.stop - part.start)), mode="edge")
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


def rank_requests(
    form: RankingServingForm,
    requests: Requests,
    query_fn: QueryFunction,
    search_fn: SearchFunction,
    config: RankingConfig,
    released: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The full path for many requests: retrieve, rank, order. Seen and not yet released items are excluded.

    `released` [N + 1]: UTC seconds of each item's release, 0 = always there.

    Returns: item rows in ranked order, and the same candidates in retrieval order; both int32 [Q, T], padded with 0.
    """
    queries = query_fn(requests.users, requests.history)
    rows, scores = search_released(
        search_fn,
        queries,
        config.retrieved,
        requests.seen.offsets,
        requests.seen.rows,
        released,
        requests.timestamps,
    )
    ranked = answer(
        form, requests.users, requests.history, rows, scores, requests.timestamps, context=requests.context
    )["score"]
    order = np.argsort(-ranked, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1), rows


def evaluate_ranking(
    dataset: Dataset,
    form: RankingServingForm,
    item_embeddings: np.ndarray,
    requests: Requests,
    query_fn: QueryFunction,
    search_fn: SearchFunction,
    config: RankingConfig,
    *,
    known_splits: tuple[str, ...],
    query_history: int,
) -> dict[str, Any]:
    """Figures of the ranker on the test split.

    `ndcg@10` and `retrieval_order_ndcg@10` order the same candidates (the index's first T without what the user has seen and
    what was not released at the time of the request) and are judged against all held-out items, found or not. They are
    therefore not those of the retrieval evaluation, which has the whole catalogue as candidates. `auc`, `logloss`,
    `ece` and the reliability curve are those of the click head over test impressions and drawn negatives, lists made
    exactly as for training.
    """
    released = dataset.items["created_at"].to_numpy(np.int64)
    ranked, retrieved = rank_requests(form, requests, query_fn, search_fn, config, released)
    fold = retrieve_fold(
        dataset, "test", query_fn, search_fn, config, known_splits=known_splits, query_history=query_history
    )
    lists = fold.lists(dataset, item_embeddings, config, [config.seed, 0])
    found = answer(
        form,
        lists.user,
        lists.history,
        lists.candidates,
        lists.retrieval_scores,
        lists.timestamp,
        lists.retrieval_ranks,
        lists.context,
    )
    result: dict[str, Any] = {
        "ndcg@10": mean_over_users(ndcg_at_k(ranked, requests.relevant, 10)),
        "retrieval_order_ndcg@10": mean_over_users(ndcg_at_k(retrieved, requests.relevant, 10)),
        "requests": len(fold.requests),
        "ece_by_head": {},
    }
    for head in form.spec.heads:
        labels = lists.labels[head][lists.known[head]].astype(np.float64)
        probabilities = found[head][lists.known[head]].astype(np.float64)
        result["ece_by_head"][head] = expected_calibration_error(labels, probabilities)
        if head == "click":
            curve = reliability_curve(labels, probabilities)
            result |= {
                "auc": auc(labels, probabilities),
                "logloss": log_loss(labels, probabilities),
                "ece": result["ece_by_head"][head],
                "reliability": np.stack(curve, axis=1).tolist(),
            }
    return result
