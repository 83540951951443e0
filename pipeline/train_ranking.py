"""Train the ranker on the validation split: what the retrieval model, trained before it, honestly proposes and misses."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.checkpoint import Checkpoint
from pipeline.evaluate_ranking import rank_requests
from pipeline.examples import make_requests
from pipeline.metrics import expected_calibration_error, log_loss, mean_over_users, ndcg_at_k
from pipeline.ranking_lists import QueryFunction, RankingFold, SearchFunction, retrieve_fold
from pipeline.train_retrieval import NonFiniteLossError, stalled
from ranking.calibration import apply_calibration, fit_calibration
from ranking.config import HEADS, RankerSpec, RankingConfig
from ranking.lists import RankingLists
from ranking.model import Ranker, batch_inputs
from ranking.serving_form import RankingServingForm
from ranking.tables import collect_side_information

Progress = Callable[[str, int, int], None]
"""(what, done, total): called after every step of long work."""
MINIMUM_LABELS = 20
"""A head with fewer positive labels on either side is left out: there is nothing to learn or to calibrate on."""


def train_ranking(
    dataset: Dataset,
    store: FeatureStore,
    item_embeddings: np.ndarray,
    query_fn: QueryFunction,
    search_fn: SearchFunction,
    out: Path,
    checkpoints: Path,
    config: RankingConfig,
    *,
    query_history: int = 20,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Train, keep the best epoch, calibrate, choose the score, and write the serving form to `out`.

    The training data is the validation split: the retrieval model saw the train split only, so that its scores there are as
    good as they will be on later events, and no better. A hashed share of its users is held out for early stopping,
    calibration and the choice of the score.

    Args:
        dataset, store: the ingested data and its content features.
        item_embeddings: [N + 1, D] of the retrieval model.
        query_fn: (user rows, history rows) -> queries [B, D].
        search_fn: (queries, k, excluded rows) -> (rows, scores) of the built index.
        out: a folder to fill; the caller renames it.
        checkpoints: outlives a kill; an interrupted run resumes from it and ends with the same weights, since lists, batches
            and dropout of an epoch depend on (seed, epoch) alone. Must be empty or of the same data and config.
        query_history: history length that `query_fn` is given.

    Returns:
        The training report, also in `out/report.json`; the learning curve is in `out/history.json`.

    Errors: NonFiniteLossError; ValueError when the validation split has no positive event on either side of the user hash.
    """
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    fold = retrieve_fold(
        dataset, "valid", query_fn, search_fn, config, known_splits=("train",), query_history=query_history
    )
    held_out = hold_out_users(fold.requests.user, config.calibration_share, config.seed)
    training, holding = fold.take(np.flatnonzero(~held_out)), fold.take(np.flatnonzero(held_out))
    draw = lambda part, epoch: part.lists(dataset, item_embeddings, config, [config.seed, epoch])  # noqa: E731
    first, judged = draw(training, 0), draw(holding, 0)
    ranker = build_ranker(dataset, store, item_embeddings, training, first, judged, config)
    steps = config.epochs * math.ceil(len(training.requests) / config.batch_lists)
    optimizer = make_optimizer(config, steps)
    ranker.compile(optimizer=optimizer, jit_compile=config.jit_compile)
    optimizer.build(ranker.trainable_variables)
    unique_items = unique_size(dataset, config)

    checkpoint = Checkpoint(checkpoints, ranker.trainable_variables + optimizer.variables)
    log: list[dict[str, float]] = []
    best: dict[str, np.ndarray] = {}
    if (restored := checkpoint.restore()) is not None:
        log, best = restored[0]["log"], restored[1]
    for epoch in range(len(log), config.epochs):
        if stalled(log, config.patience, "-loss"):
            break
        start = time.perf_counter()
        lists = draw(training, epoch)
        ranker.reseed(epoch)
        losses = []
        for step, (inputs, labels) in enumerate(batches(lists, config, unique_items, epoch)):
            losses.append(float(ranker.train_on_batch(inputs, labels, return_dict=True)["loss"]))
            ranker.reset_metrics()
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(
                    f"ranking: the loss is {losses[-1]} in epoch {epoch}, step {step}. Lower ranking.learning_rate, or look "
                    "for infinite values in the feature tables and the item embeddings."
                )
            progress("training", min(steps, (epoch * steps) // config.epochs + step + 1), steps)
        quality = judge(ranker, judged, config, unique_items)
        log.append({"epoch": epoch, "loss": float(np.mean(losses)), **quality, "seconds": time.perf_counter() - start})
        if quality["valid_loss"] <= min(row["valid_loss"] for row in log):
            best = {str(place): np.array(variable) for place, variable in enumerate(ranker.trainable_variables)}
        checkpoint.save({"epoch": epoch, "log": log}, best)
    for place, variable in enumerate(ranker.trainable_variables):
        variable.assign(best[str(place)])
    raise NotImplementedError
