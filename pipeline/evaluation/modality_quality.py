"""What each modality is worth to the ranked lists: NDCG visit by visit with it hidden from the ranker, or from everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from pipeline.metrics.metrics import ndcg_at_k
from pipeline.ranker.lists import RankingFold, past_histories, search_released
from pipeline.ranker.rank_requests import BLOCK, order_by
from pipeline.ranker.request_quality import wanted_items, with_intervals
from pipeline.ranker.retrieval_side import exact_search
from pipeline.retrieval.served import load_served, served_folder
from ranking.serving_form import RankingServingForm

WITHOUT = "without_{}"
"""What the retrieval model that was trained without a modality is called."""
MOST_VISITS = 2_000
"""Of more visits a random choice is judged, the same in every run."""
MOST_ITEMS = 200_000
"""In a larger catalogue those retrieval models, which have no index, are not asked."""


def judge_without_modalities(
    dataset: Dataset,
    run: Path,
    form: RankingServingForm,
    fold: RankingFold,
    ranked: NDArray,
    *,
    known_splits: tuple[str, ...],
    seed: int,
    k: int = 10,
) -> dict[str, Any]:
    """NDCG@k without each modality, and its difference from that with all of them.

    `ranker` hides the modality's features from the ranker (`group_mask`, as an explanation does) and leaves it the same
    candidates and retrieval scores. `path` hides it from retrieval too: the candidates are those of the model that was
    trained without it, where the run has one, their scores moved to the mean and spread of the full model's. The ranker
    is not trained anew, and its `behaviour` still comes from the full model: what is lost is what the finished ranker
    takes from the modality itself.

    Args:
        run: the run's folder. fold: answered visits of the split "test". ranked: [R], NDCG@k with all modalities.
        known_splits: see `retrieve_fold`.

    Returns: {"visits", "ndcg@10": with all, "without": {modality: {"ranker" and "path": {"ndcg@10" and "difference"}}}}, the
        visits that have a value, figures as [mean, low, high]; bounds of 95 % intervals by resampling users with all their
        visits.
    """
    if len(fold.requests) > MOST_VISITS:
        chosen = np.sort(np.random.default_rng(0).permutation(len(fold.requests))[:MOST_VISITS])
        fold, ranked = fold.take(chosen), ranked[chosen]
    names = [name for name in form.network.features.groups if name in form.spec.modalities]
    values = {(name, "ranker"): _ndcg(fold, scores, k) for name, scores in scores_without(form, fold, names).items()}
    for name in names:
        variant = WITHOUT.format(name)
        if served_folder(run, variant).is_dir() and dataset.schema.item_rows <= MOST_ITEMS:
            others = candidates_of(dataset, run, variant, form, fold, known_splits)
            values[name, "path"] = _ndcg(others, scores_without(form, others, [name])[name], k)
    whole, table = f"ndcg@{k}", {}
    for (name, part), column in values.items():
        table[f"{name}/{part}/{whole}"], table[f"{name}/{part}/difference"] = column, column - ranked
    found = with_intervals({whole: ranked, **table}, fold.requests.user, seed)
    result: dict[str, Any] = {
        "visits": int(np.isfinite(ranked).sum()), whole: found.pop(whole), "without": {name: {} for name in names}
    }  # fmt: skip
    for key, triple in found.items():
        name, part, figure = key.split("/")
        result["without"][name].setdefault(part, {})[figure] = triple
    return result


def scores_without(
    form: RankingServingForm, fold: RankingFold, groups: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """The scores of every candidate of a fold with one group of features hidden at a time. {group: [R, T]}

    The features of a candidate are made once, and masked once a group; see `PairFeatures.call`.
    """
    features, asked = form.network.features, fold.requests
    neutral, order = features.neutral(), list(features.groups)
    kept = {group: (features.group_of_column != order.index(group)).astype(np.float32) for group in groups}
    found: dict[str, list[NDArray]] = {group: [np.zeros(fold.rows[:0].shape, np.float32)] for group in groups}
    for start in range(0, len(asked), BLOCK):
        part = np.minimum(np.arange(start, start + BLOCK), len(asked) - 1)
        rows = fold.rows[part]
        given = form.request_inputs(
            asked.user[part], asked.history[part], rows, fold.scores[part], asked.timestamp[part], None, asked.context[part]
        )
        x0 = features(form.tokens, form.present, None, given)
        for group, mask in kept.items():
            told = form.answer(x0 * mask + neutral * (1.0 - mask), rows, given["retrieval_scores"])["score"]
            found[group].append(keras.ops.convert_to_numpy(told)[: len(asked) - start])
    return {group: np.concatenate(parts) for group, parts in found.items()}


def candidates_of(
    dataset: Dataset,
    run: Path,
    variant: str,
    form: RankingServingForm,
    fold: RankingFold,
    known_splits: tuple[str, ...],
) -> RankingFold:
    """The same visits with the candidates of another retrieval model of the run, found by exact search."""
    served, asked = load_served(run, variant), fold.requests
    given = (asked.user, asked.timestamp, known_splits, served.history_length, form.config.seed)
    queries = served.queries(dataset.profile, asked.user, past_histories(dataset, "test", *given))
    search = lambda queries, k, excluded: exact_search(queries, served.items, k, excluded)  # noqa: E731
    released = dataset.items["created_at"].to_numpy(np.int64)
    past = (asked.seen_start, asked.seen_item, released, asked.timestamp)
    rows, scores = search_released(search, queries, fold.rows.shape[1], *past)
    inside = scores[rows > 0].astype(np.float64)
    wanted = fold.scores[fold.rows > 0].astype(np.float64)
    moved = (scores - inside.mean()) / (inside.std() + 1e-9) * wanted.std() + wanted.mean()
    moved = np.where(rows > 0, moved, np.finfo(np.float32).min).astype(np.float32)
    return dataclasses.replace(fold, queries=queries, rows=rows, scores=moved)


def _ndcg(fold: RankingFold, scores: NDArray, k: int) -> NDArray[np.float64]:
    return ndcg_at_k(order_by(fold.rows, scores)[:, :k], wanted_items(fold.requests, fold.released), k)
