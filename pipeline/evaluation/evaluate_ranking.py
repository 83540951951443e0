"""Judge the ranker on the test split: order against the retrieval order, probabilities against what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.evaluation.deletion_test import ShownItems, deletion_test
from pipeline.evaluation.exposure_quality import judge_exposure
from pipeline.evaluation.modality_quality import judge_without_modalities
from pipeline.evaluation.order_quality import judge_orders, task_targets
from pipeline.evaluation.probability_quality import judge_probabilities
from pipeline.evaluation.user_values import write_user_values
from pipeline.metrics.examples import Requests
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.segments import domain_groups, find_segments, popularity_groups
from pipeline.policy.off_policy_stage import estimate_off_policy
from pipeline.ranker.boosted_trees import boosted_trees_report
from pipeline.ranker.lists import QueryFunction, SearchFunction, retrieve_fold
from pipeline.ranker.rank_requests import answer, answer_fold, order_by, propose
from pipeline.ranker.request_quality import judged_requests, mean_by_user, request_values, summarise_requests
from pipeline.ranker.visits import Visits
from ranking.config import RankingConfig
from ranking.serving_form import RankingServingForm


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
    vectors: np.ndarray | None = None,
    trained: Path | None = None,
    policies: Callable[[Visits, Visits], Mapping[str, Any]] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Figures of the ranker on the test split.

    `ndcg@10` and `retrieval_order_ndcg@10` order the same candidates (the index's first T without what the user has seen
    and what was not released at the time of the request), each request judged by what was chosen in it; `by_request` has
    them with intervals and boosted trees on the ranker's features beside them (`pipeline.ranker.request_quality`). `by_user`
    asks once a user, as the retrieval evaluation does, and is judged against all held-out items, found or not; `order` has
    that by task and segment, with intervals (`pipeline.evaluation.order_quality`). `exposure` is what both orders show
    (`pipeline.evaluation.exposure_quality`), `lightgbm` how the trees were fitted. `heads` has AUC, log loss and calibration
    (`pipeline.evaluation.probability_quality`) over test impressions and drawn negatives, lists made exactly as for training;
    `auc`, `logloss` and `ece` are those of the click head. `off_policy` is what pages of both orders would have earned,
    where the log has propensities (`pipeline.policy.off_policy_stage`).

    Args:
        vectors: [N + 1, D] content of the items, for the diversity of lists.
        trained: folder of the ranking stage, where its boosted trees may lie; beside it the retrieval models that were trained
            without a modality, for `without_modality` (`pipeline.evaluation.modality_quality`).
        policies: more figures out of the visits as they were answered, and of every user asked once.
        out: folder that takes each user's values (`pipeline.evaluation.user_values`).
    """
    released = dataset.items["created_at"].to_numpy(np.int64)
    retrieved, scores = propose(requests, query_fn, search_fn, config, released)
    asked = (requests.users, requests.history, retrieved, scores, requests.timestamps)
    once = answer(form, *asked, context=requests.context)
    given = once["score"]
    ranked = order_by(retrieved, given)
    orders = {"ranked": ranked, "retrieval": retrieved}
    groups = {"items": popularity_groups(dataset.counts)}
    if (domains := domain_groups(dataset)) is not None:
        groups["domain"] = domains
    segments = find_segments(dataset, requests.users, known_splits, groups)
    targets = task_targets(dataset, requests)
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
    heads = judge_probabilities(found, lists, form.spec.heads, segments)
    visits = judged_requests(fold)
    visit_users, told = visits.requests.user, answer_fold(form, visits)
    by_visit = request_values(visits, told["score"], form, trained)
    by_request = summarise_requests(by_visit, visit_users, config.seed)
    result: dict[str, Any] = {
        "ndcg@10": by_request["ranked"][0],
        "retrieval_order_ndcg@10": by_request["retrieval"][0],
        "by_request": by_request,
        "by_user": {
            "ndcg@10": mean_over_users(ndcg_at_k(ranked, requests.relevant, 10)),
            "retrieval_order_ndcg@10": mean_over_users(ndcg_at_k(retrieved, requests.relevant, 10)),
        },
        "requests": len(fold.requests),
        **{name: heads["click"][name] for name in ("auc", "logloss", "ece") if "click" in heads},
        "ece_by_head": {head: figures["ece"] for head, figures in heads.items() if "ece" in figures},
        "reliability": {
            head: figures.pop("reliability") for head, figures in heads.items() if "reliability" in figures
        },
        "heads": heads,
        "order": judge_orders(orders, targets, requests.users, segments, config.seed),
        "exposure": judge_exposure(orders, requests.relevant, dataset.counts, groups, vectors),
    }
    window = config.request_seconds
    if (off_policy := estimate_off_policy(dataset, visits, told, form.spec.heads, window_seconds=window)) is not None:
        result["off_policy"] = off_policy
    if trained is not None:
        result["lightgbm"] = boosted_trees_report(trained)
        if "lightgbm" in by_request:
            result["lightgbm_ndcg@10"] = result["lightgbm"]["ndcg@10"] = by_request["lightgbm"][0]
            result["lightgbm"]["ranker_less_trees"] = by_request["ranked_less_lightgbm"]
        result["without_modality"] = judge_without_modalities(
            dataset, trained.parent, form, visits, by_visit["ranked"], known_splits=known_splits, seed=config.seed
        )
    if policies is not None:
        people = Visits(
            requests.users, requests.history, requests.timestamps, requests.relevant, retrieved, given, once["click"]
        )
        result |= policies(Visits.of(visits, told), people)
    if len(requests.users) > 1:
        shown = ShownItems(
            requests.users, requests.history, requests.timestamps, requests.context, retrieved, scores, given
        )
        result["deletion_test"] = deletion_test(form, shown, seed=config.seed)
    if out is not None:
        means = {f"{name}_visits_ndcg@10": mean_by_user(values, visit_users, requests.users)
                 for name, values in by_visit.items()}  # fmt: skip
        asked_how = {"known_splits": sorted(known_splits), "request_seconds": config.request_seconds}
        write_user_values(out, dataset, requests, orders, targets, means, asked_how)
    return result
