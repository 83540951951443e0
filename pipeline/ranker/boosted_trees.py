"""LambdaRank trees on the ranker's own features: the baseline that a ranker has to beat."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.ranker.tree_examples import BLOCK_LISTS, TreeExamples, tree_features
from pipeline.stage import read_json
from ranking.config import RankingConfig
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
    "feature_fraction": 0.6,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
"""Chosen by NDCG@10 of the demo's held-out requests: of all candidates that the index has for them, three seeds, .171 with .6
of the features a tree and .167 with .3; 31 leaves or half the rate are no better."""
MOST_ROUNDS, PATIENCE = 400, 20
MODEL, REPORT = "boosted_trees.txt", "boosted_trees.json"


def fit_boosted_trees(
    training: TreeExamples,
    held_out: TreeExamples,
    config: RankingConfig,
    out: Path,
    *,
    again: TreeExamples | None = None,
) -> dict[str, Any]:
    """Fit LambdaRank trees to the clicks of training lists, stop on the held-out ones, and write both files to `out`.

    Burges (2010), https://www.microsoft.com/en-us/research/publication/from-ranknet-to-lambdarank-to-lambdamart-an-overview/;
    Ke et al. (2017), https://papers.nips.cc/paper/6907-lightgbm-a-highly-efficient-gradient-boosting-decision-tree.

    Args:
        training, held_out: what the ranker learned from, and what it was stopped on.
        again: of all lists, as the ranker reads them once it has caught up with the held-out days: as many trees are fitted
            anew to these, so that the trees know the same days and see the features that they will be asked with.

    Returns: {rounds, valid_ndcg@10, lists, seconds}, or {skipped: why} where LightGBM cannot be loaded.
    """
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    try:
        import lightgbm
    except OSError as error:
        report: dict[str, Any] = {"skipped": no_lightgbm(error)}
        (out / REPORT).write_text(json.dumps(report))
        return report
    settings = {**SETTINGS, "seed": config.seed, "lambdarank_truncation_level": config.list_size}
    train = training.dataset()
    booster = lightgbm.train(
        settings,
        train,
        MOST_ROUNDS,
        valid_sets=[held_out.dataset(train)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    rounds, quality = booster.best_iteration, float(booster.best_score["valid_0"]["ndcg@10"])
    if again is not None:
        booster = lightgbm.train(settings, again.dataset(), rounds)
    booster.save_model(out / MODEL, num_iteration=rounds)
    report = {
        "rounds": rounds,
        "valid_ndcg@10": quality,
        "lists": len((again or training).sizes),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    (out / REPORT).write_text(json.dumps(report))
    return report


def no_lightgbm(error: OSError) -> str:
    """Why there are no trees: its wheel is the one among our requirements that leaves OpenMP to the system."""
    return f"LightGBM does not load: {error}. Install libgomp1 (apt) or libgomp (dnf)."


def load_boosted_trees(folder: Path) -> lightgbm.Booster | None:
    """The trees that `fit_boosted_trees` left in a folder; None where it could not."""
    if not (folder / MODEL).is_file():
        return None
    import lightgbm

    return lightgbm.Booster(model_file=folder / MODEL)


def boosted_trees_report(folder: Path) -> dict[str, Any]:
    """What `fit_boosted_trees` told of its fit, or why there was none."""
    return read_json(folder / REPORT, {"skipped": "the ranking stage fitted none"})


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
        x = tree_features(form, given)
        predicted = np.asarray(booster.predict(x.reshape(-1, x.shape[-1]))).reshape(x.shape[:2])
        found[part] = np.where(rows[part] > 0, predicted, -np.inf)
    return found
