"""Gradient-boosted trees on the ranker's own features: the baseline that a ranking network has to beat."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ranking.config import RankingConfig
from ranking.lists import RankingLists
from ranking.serving_form import RankingServingForm

if TYPE_CHECKING:
    import lightgbm

SETTINGS: dict[str, Any] = {
    "objective": "lambdarank",
    "lambdarank_norm": False,
    "metric": "ndcg",
    "eval_at": [10],
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.3,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
"""Chosen by NDCG@10 of the demo's held-out users; 7 or 31 leaves, bagging and a ridge of 10 are no better there."""
MOST_ROUNDS, PATIENCE = 400, 20
MOST_LISTS = 8_000
"""Training lists looked at: more would double the ranking stage for a figure that hardly moves."""
BLOCK_LISTS = 256
LEFT_OUT = "ids"
"""Group of features that trees do not see."""
MODEL, REPORT = "boosted_trees.txt", "boosted_trees.json"


def fit_boosted_trees(
    form: RankingServingForm,
    training: RankingLists,
    held_out: RankingLists,
    config: RankingConfig,
    out: Path,
    *,
    again: tuple[RankingServingForm, RankingLists] | None = None,
) -> dict[str, Any]:
    """Fit LambdaRank trees to the clicks of training lists, stop on the held-out ones, and write both files to `out`.

    The features are x_0 of the trained ranker, retrieval score and rank among them, but for the embeddings of ids: those
    were fitted to the clicks of the same lists, which trees that read them learn by heart (the demo's held-out NDCG@10 is
    .527 without and .523 with them; on the test split, visit by visit, .156 and .146). Burges (2010), https://www.microsoft.com/en-us/research/publication/from-ranknet-to-lambdarank-to-lambdamart-an-overview/;
    Ke et al. (2017), https://papers.nips.cc/paper/6907-lightgbm-a-highly-efficient-gradient-boosting-decision-tree.

    Args:
        form: of the trained ranker, with popularity as of the past.
        training, held_out: the lists that the ranker learned from, and those that it was stopped on.
        again: the ranker once it has caught up with the held-out days, and the lists of all: as many trees are fitted anew
            to these, so that the trees know the same days and see the features that they will be asked with.

    Returns: {rounds, valid_ndcg@10, lists, seconds}, or {skipped: why} where LightGBM cannot be loaded.
    """
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    try:
        import lightgbm
    except OSError as error:
        # Its wheel is the one among our requirements that leaves OpenMP to the system.
        report: dict[str, Any] = {
            "skipped": f"LightGBM does not load: {error}. Install libgomp1 (apt) or libgomp (dnf)."
        }
        (out / REPORT).write_text(json.dumps(report))
        return report
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(training))[:MOST_LISTS])
    train = lightgbm.Dataset(**_table(form, training, chosen, config, rng))
    valid = lightgbm.Dataset(**_table(form, held_out, np.arange(len(held_out)), config, rng), reference=train)
    settings = {**SETTINGS, "seed": config.seed, "lambdarank_truncation_level": config.list_size}
    booster = lightgbm.train(
        settings,
        train,
        MOST_ROUNDS,
        valid_sets=[valid],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    rounds, quality, lists = booster.best_iteration, float(booster.best_score["valid_0"]["ndcg@10"]), len(chosen)
    if again is not None:
        caught_up, everything = again
        chosen = np.sort(rng.permutation(len(everything))[:MOST_LISTS])
        lists = len(chosen)
        booster = lightgbm.train(settings, lightgbm.Dataset(**_table(caught_up, everything, chosen, config, rng)), rounds)
    booster.save_model(out / MODEL, num_iteration=rounds)
    report = {
        "rounds": rounds,
        "valid_ndcg@10": quality,
        "lists": lists,
        "seconds": round(time.perf_counter() - begun, 2),
    }
    (out / REPORT).write_text(json.dumps(report))
    return report


def load_boosted_trees(folder: Path) -> lightgbm.Booster | None:
    """The trees that `fit_boosted_trees` left in a folder; None where it could not."""
    if not (folder / MODEL).is_file():
        return None
    import lightgbm

    return lightgbm.Booster(model_file=folder / MODEL)


def boosted_trees_report(folder: Path) -> dict[str, Any]:
    """What `fit_boosted_trees` told of its fit, or why there was none."""
    written = folder / REPORT
    return json.loads(written.read_text()) if written.is_file() else {"skipped": "the ranking stage fitted none"}


def score_candidates(
    booster: lightgbm.Booster,
    form: RankingServingForm,
    users: np.ndarray,
    history: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    times: np.ndarray,
    context: np.ndarray,
) -> np.ndarray:
    """The trees' scores of all that was retrieved for each request, padding last. [Q, T]"""
    found = np.full(rows.shape, -np.inf)
    for start in range(0, len(rows), BLOCK_LISTS):
        part = slice(start, start + BLOCK_LISTS)
        given = form.request_inputs(
            users[part], history[part], rows[part], scores[part], times[part], None, context[part]
        )
        x0 = _features(form, given)
        predicted = np.asarray(booster.predict(x0.reshape(-1, x0.shape[-1]))).reshape(x0.shape[:2])
        found[part] = np.where(rows[part] > 0, predicted, -np.inf)
    return found


def _table(
    form: RankingServingForm, lists: RankingLists, chosen: np.ndarray, config: RankingConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """Features, clicks and sizes of the chosen lists that hold a click, each list's elements in a random order.

    Lists name their positives first, and equal scores keep the order of the data: without the shuffle a single tree
    looks perfect, and training stops there.
    """
    chosen = chosen[(lists.labels["click"][chosen] * lists.mask[chosen]).any(axis=1)]
    width = int((form.network.features.group_of_column != _left_out(form)).sum())
    rows, labels = [np.zeros((0, width), np.float32)], [np.zeros(0)]
    for start in range(0, len(chosen), BLOCK_LISTS):
        at = chosen[start : start + BLOCK_LISTS]
        # A release grows old; the network is trained with popularity of up to so long ago, and so are the trees.
        delay = (rng.random(len(at)) * config.popularity_delay * 86_400).astype(np.int64)
        time = lists.timestamp[at].astype(np.int64)
        given = form.request_inputs(
            lists.user[at], lists.history[at], lists.candidates[at], lists.retrieval_scores[at], lists.timestamp[at],
            lists.retrieval_ranks[at], lists.context[at],
        )  # fmt: skip
        x0 = _features(form, given, np.where(time > 0, time - delay, time))
        mask = lists.mask[at]
        order = np.argsort(np.where(mask, rng.random(mask.shape), 2.0), axis=1)
        inside = np.take_along_axis(mask, order, axis=1)
        rows.append(np.take_along_axis(x0, order[..., None], axis=1)[inside])
        labels.append(np.take_along_axis(lists.labels["click"][at], order, axis=1)[inside])
    return {
        "data": np.concatenate(rows),
        "label": np.concatenate(labels),
        "group": lists.mask[chosen].sum(axis=1),
    }


def _features(form: RankingServingForm, given: dict[str, Any], as_of: np.ndarray | None = None) -> np.ndarray:
    """x_0 of every candidate but for the group that is left out. [B, K, X']"""
    x0 = keras.ops.convert_to_numpy(form.network.features(form.tokens, form.present, None, given, as_of=as_of))
    return x0[..., form.network.features.group_of_column != _left_out(form)]


def _left_out(form: RankingServingForm) -> int:
    """The group's number in `group_of_column`."""
    return list(form.network.features.groups).index(LEFT_OUT)
