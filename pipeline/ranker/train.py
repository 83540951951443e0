"""Train the ranker on the validation split, where the retrieval model, trained before it, is honestly wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import VALID
from pipeline.metrics.probability_metrics import expected_calibration_error, log_loss
from pipeline.ranker.boosted_trees import fit_boosted_trees
from pipeline.ranker.calibrate import calibrate, list_logits
from pipeline.ranker.catch_up import catch_up
from pipeline.ranker.choose_score import choose_score, choosing_requests, score_of
from pipeline.ranker.click_trees import REPORT, ClickTrees, fit_again, fit_click_trees
from pipeline.ranker.earlier_fold import EarlierFold
from pipeline.ranker.list_checks import check_counts_read, check_lists, check_popularity_read
from pipeline.ranker.lists import QueryFunction, SearchFunction, retrieve_fold
from pipeline.ranker.rank_requests import answer_fold
from pipeline.ranker.setup import (
    batches,
    build_ranker,
    hold_out_requests,
    hold_out_users,
    learnable_heads,
    train_step,
    unique_size,
)
from pipeline.ranker.training_sources import earlier_source, epoch_batches, own_source
from pipeline.ranker.tree_examples import TreeExamples
from pipeline.ranker.visits import HELD_OUT, Visits
from pipeline.ranker.warm import WarmRanker, not_learned, save_learned, with_labels_of
from pipeline.training.checkpoint import Checkpoint, put_back, snapshot
from pipeline.training.epochs import Progress
from pipeline.training.fused_optimizers import FusedAdamW
from ranking.config import NUMBERS, RankingConfig
from ranking.lists import RankingLists
from ranking.model import Ranker
from ranking.serving_form import RankingServingForm

ADVICE = "Lower ranking.learning_rate, or look for infinite values in the feature tables and the item embeddings."
FOLDS = ("train", "valid")
"""What a ranker may know of: the retrieval model's split, and its own."""


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
    earlier: EarlierFold | None = None,
    baseline: bool = False,
    start: WarmRanker | None = None,
    trees: ClickTrees | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Train, keep the best epoch, calibrate, choose the score, and write the serving form to `out`.

    The training data is the validation split: the retrieval model saw the train split only, so that its scores there
    are as good as they will be on later events, and no better. Its last days (its users' hashed share where a log has no
    times) are held out for early stopping, calibration and the choice of the score.

    Args:
        dataset, store: the ingested data and its content features.
        item_embeddings: [N + 1, D] of the retrieval model.
        query_fn: (user rows, history rows) -> queries [B, D].
        search_fn: (queries, k, excluded rows) -> (rows, scores) of the built index.
        out: a folder to fill; the caller renames it.
        checkpoints: outlives a kill; an interrupted run resumes from it and ends with the same weights, since lists,
            batches and dropout of an epoch depend on (seed, epoch) alone.
        query_history: history length that `query_fn` is given.
        earlier: a second source of lists; every epoch begins with it.
        baseline: whether boosted trees are fitted to the same lists, for the evaluation to compare with.
        start: an earlier ranker that the new one goes on from: it is calibrated and weighed as it is, on requests that are
            later than what it knows if there are enough, and only then goes on learning, by catching up.
        trees: that ranker's, which go with `start`.

    Returns: the training report; the learning curve is in `out/history.json`, the serving form in `out/serving_form`, and in
        `out/held_out.npz` the held-out requests as the ranker saw them before it learned from them, for the choice of a policy.

    Errors: NonFiniteLossError; LeakError where a list or a table knows the labels; ValueError when the validation split
        has no request on either side of the hold-out.
    """
    fold = retrieve_fold(
        dataset, "valid", query_fn, search_fn, config, known_splits=("train",), query_history=query_history
    )
    held_out = hold_out_requests(fold.requests, config)
    if not len(fold.requests) or held_out.all() or not held_out.any():
        raise ValueError(
            f"ranking: the validation split needs requests on both sides of the hold-out, received "
            f"{len(fold.requests)} requests. Enlarge data.valid_fraction."
        )
    training, holding = fold.take(np.flatnonzero(~held_out)), fold.take(np.flatnonzero(held_out))
    first = training.lists(dataset, item_embeddings, config, [config.seed, 0])
    judged = holding.lists(dataset, item_embeddings, config, [config.seed, 0])
    heads = learnable_heads(first, judged, config)
    if start is not None:
        heads = start.heads(heads, first, config)
        later = not_learned(holding.requests.timestamp, start.learned_until)
        judged, holding = with_labels_of(judged, later), holding.take(np.flatnonzero(later))
    keras.utils.set_random_seed(config.seed)
    if earlier is not None and not dataset.schema.has_timestamps:
        # Whoever judges must be a stranger there too; where days judge, those of the earlier fold are past.
        strangers = ~hold_out_users(earlier.fold.requests.user, config.calibration_share, config.seed)
        earlier = dataclasses.replace(earlier, fold=earlier.fold.take(np.flatnonzero(strangers)))
    also = None if earlier is None else earlier.fold.requests
    begin = min(int(part.timestamp.min()) for part in (fold.requests, also) if part is not None)
    ranker = build_ranker(
        dataset,
        store,
        item_embeddings,
        training,
        first,
        heads,
        config,
        known_splits=FOLDS,
        first_request=begin,
        also=also,
        learned=() if start is None else start.modalities,
    )
    if start is not None:
        start.fill(ranker)
    own = own_source(dataset, training, item_embeddings, ranker)
    sources = [own] if earlier is None else [earlier_source(earlier, own, ranker, config), own]
    for source in sources:
        source.enter(ranker)
        lists = source.lists(config, 0)
        check_lists(source.dataset, lists, window_seconds=config.request_seconds)
        check_counts_read(source.dataset, ranker)
    check_lists(dataset, judged, window_seconds=config.request_seconds)
    check_popularity_read(dataset, ranker, begin)
    steps_an_epoch = sum(math.ceil(len(source.fold.requests) / config.batch_lists) for source in sources)
    steps = config.epochs * steps_an_epoch
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.05, warmup_target=config.learning_rate, warmup_steps=min(50, steps // 10)
    )
    optimizer = FusedAdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=1.0)
    ranker.compile(optimizer=optimizer, jit_compile=config.jit_compile)
    optimizer.build(ranker.trainable_variables)
    unique_items = unique_size(dataset, config)
    kept = [*ranker.trainable_variables, *ranker.weighting.non_trainable_variables, *optimizer.variables]
    checkpoint = Checkpoint(checkpoints, kept)
    log: list[dict[str, float]] = []
    best: dict[str, np.ndarray] = {}
    if (restored := checkpoint.restore()) is not None:
        log, best = restored[0]["log"], restored[1]
    for epoch in range(len(log), config.epochs if start is None else 0):
        if len(log) - 1 - best_epoch(log) >= config.patience:
            break
        begun = time.perf_counter()
        ranker.reseed(epoch)
        losses: list[float] = []
        for inputs, labels in epoch_batches(sources, ranker, config, unique_items, epoch):
            where = f"in epoch {epoch}, step {len(losses)}"
            losses.append(train_step(ranker, inputs, labels, where=where, advice=ADVICE))
            progress("training", epoch * steps_an_epoch + len(losses), steps)
        valid = log_loss(*labelled(predict_lists(ranker, judged, config, unique_items), judged, "click"))
        log.append(
            {
                "epoch": epoch,
                "loss": float(np.mean(losses)),
                "valid_loss": valid,
                "seconds": time.perf_counter() - begun,
            }
        )
        if best_epoch(log) == epoch:
            best = snapshot(ranker.trainable_variables)
        checkpoint.save({"epoch": epoch, "log": log}, best)
    if best:
        put_back(ranker.trainable_variables, best)
    asked = choosing_requests(holding)
    rng = np.random.default_rng(config.seed)
    told_of_trees: dict[str, Any] = {"kept": True}
    known: tuple[TreeExamples, TreeExamples] | None = None
    if start is None:
        past = RankingServingForm.from_ranker(ranker, newest=False)
        known = (
            TreeExamples.of(past, first, config, rng, ranker.position),
            TreeExamples.of(past, judged, config, rng, ranker.position),
        )
        trees, told_of_trees = fit_click_trees(past, *known, asked, config)
    tables = None if trees is None else trees.tables
    past = RankingServingForm.from_ranker(ranker, newest=False, trees=tables)
    before = {} if start is None else start.calibrations
    calibrations, calibrated = calibrate(dataset, list_logits(past, judged), judged, config, before)
    past = RankingServingForm.from_ranker(ranker, calibrations, newest=False, trees=tables)
    told = answer_fold(past, asked)
    weights, blend, ndcg = choose_score(past.spec, asked, told, config)
    told["score"] = score_of(past.spec, asked, told, weights, blend)
    catch_up(ranker, own_source(dataset, fold, item_embeddings, ranker), config, unique_items)
    baseline_report: dict[str, Any] = {}
    if trees is not None or baseline:
        caught_up = RankingServingForm.from_ranker(ranker, newest=False)
        everything = TreeExamples.of(
            caught_up, fold.lists(dataset, item_embeddings, config, [config.seed, 0]), config, rng, ranker.position
        )
        if baseline and known is not None:
            baseline_report = fit_boosted_trees(*known, config, out, again=everything)
        if trees is not None:
            trees = fit_again(trees, caught_up, everything, config)
            out.mkdir(parents=True, exist_ok=True)
            (out / REPORT).write_text(json.dumps({"rounds": trees.rounds, "factor": trees.factor}))
    tables = None if trees is None else trees.tables
    RankingServingForm.from_ranker(ranker, calibrations, weights, blend, trees=tables).save(out / "serving_form")
    events = dataset.events[dataset.events["split"] == VALID]
    save_learned(ranker, out, int(events["timestamp"].max()) if dataset.schema.has_timestamps else 0)
    Visits.of(asked, told).save(out / HELD_OUT)
    (out / "history.json").write_text(json.dumps(log, indent=2))
    return {
        "requests": len(first),
        "epochs": len(log),
        "best_epoch": best_epoch(log),
        "heads": list(heads),
        "score_weights": weights,
        "score_blend": blend,
        "valid_ndcg@10": ndcg,
        "click_trees": told_of_trees,
        "boosted_trees": baseline_report,
        "valid_ece": {
            head: expected_calibration_error(*labelled(calibrated, judged, head))
            for head in heads
            if head not in NUMBERS and judged.known[head].any()
        },
    }


def best_epoch(log: list[dict[str, float]]) -> int:
    """The epoch with the lowest validation loss; the earliest of equals.

    Example:
        >>> best_epoch([{"valid_loss": 0.5}, {"valid_loss": 0.4}, {"valid_loss": 0.4}])
        1
    """
    return min(range(len(log)), key=lambda place: log[place]["valid_loss"], default=-1)


def predict_lists(
    ranker: Ranker, lists: RankingLists, config: RankingConfig, unique_items: int
) -> dict[str, np.ndarray]:
    """Probabilities of every head for every list. {head: [R, K]}"""
    parts: dict[str, list[np.ndarray]] = {head: [] for head in ranker.spec.heads}
    for inputs, _, real in batches(lists, config, unique_items, np.arange(len(lists))):
        for head, logits in ranker.predict_on_batch(inputs).items():
            parts[head].append(np.asarray(logits)[:real])
    joined = {head: np.concatenate(values).astype(np.float64) for head, values in parts.items()}
    return {head: 1.0 / (1.0 + np.exp(-values)) for head, values in joined.items()}


def labelled(predictions: dict[str, np.ndarray], lists: RankingLists, head: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of one head where the label is known. -> ([E], [E])"""
    return lists.labels[head][lists.known[head]].astype(np.float64), predictions[head][lists.known[head]]
