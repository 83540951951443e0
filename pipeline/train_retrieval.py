"""Train one variant of the two towers: epochs of in-batch softmax, judged on validation NDCG@20, resumable by the
epoch."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.batches import RetrievalBatches
from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.checkpoint import Checkpoint, put_back, snapshot
from pipeline.config import RetrievalConfig
from pipeline.examples import Requests, make_requests, positive_histories
from pipeline.metrics import mean_over_users, ndcg_at_k
from pipeline.queries import embed_queries
from pipeline.top_k import dot_product_scores, top_k
from towers.config import TowerConfig
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

Progress = Callable[[str, int, int], None]
"""(what, done, total): called after every step of long work."""


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message says where and what usually helps."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stop at the very step whose loss is not finite, before a checkpoint could keep it."""

    def __init__(self, epoch: int, progress: Progress, done: int, total: int):
        super().__init__()
        self.epoch, self.progress, self.done, self.total = epoch, progress, done, total

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"retrieval: the loss is {loss} in epoch {self.epoch}, step {batch}. Lower retrieval.learning_rate, "
                f"raise retrieval.temperature, or look for infinite values in the feature tables (`<run>/encode`)."
            )
        self.progress("training", self.done + batch + 1, self.total)


def tower_config(config: RetrievalConfig, modalities: tuple[str, ...]) -> TowerConfig:
    """The part of the run's settings that the towers themselves need. Without content the id is never hidden: nothing
    would remain."""
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(TowerConfig)
        if hasattr(config, field.name)
    }
    if not modalities:
        shared["id_dropout"] = 0.0
    return TowerConfig(**shared)


def build_task(dataset: Dataset, store: FeatureStore, two_tower: TwoTower) -> RetrievalTask:
    """The towers with the tables of the modalities they read on the device."""
    return RetrievalTask(two_tower, **task_tables(dataset, store, two_tower))


def task_tables(dataset: Dataset, store: FeatureStore, two_tower: TwoTower) -> dict[str, Any]:
    """What a `RetrievalTask` gathers from: features and present mask of the modalities, profile, counts."""
    modalities = two_tower.schema.modalities
    return {
        "features": {name: np.asarray(store.table(name)) for name in modalities},
        "present": np.asarray(store.present)[:, [MODALITIES.index(name) for name in modalities]],
        "profile": dataset.profile,
        "counts": dataset.counts,
    }


def validation_ndcg(task: RetrievalTask, requests: Requests, profile: np.ndarray) -> float:
    """NDCG@20 over the full catalogue, by the towers as they would be served."""
    items = task.all_item_embeddings()
    queries = embed_queries(task.two_tower, items, profile, requests.users, requests.history)
    ranked, _ = top_k(dot_product_scores(queries, items), np.arange(len(queries)), requests.seen, 20)
    return mean_over_users(ndcg_at_k(ranked, requests.relevant, 20))


def train_retrieval(
    dataset: Dataset,
    store: FeatureStore,
    out: Path,
    checkpoints: Path,
    config: RetrievalConfig,
    *,
    modalities: tuple[str, ...],
    progress: Progress,
) -> dict[str, Any]:
    """Train, keep the epoch with the best validation NDCG@20, and write towers, item embeddings and history to `out`.

    Args:
        out: a folder to fill; the caller renames it. checkpoints: outlives a kill; an interrupted run resumes from it
        and ends with
            the same weights, since batches and dropout of an epoch depend on (seed, epoch) alone.
        modalities: the content the item tower may see; empty for the ids-only model.

    Errors: NonFiniteLossError; ValueError when the train split holds no positive event.
    """
    histories = positive_histories(dataset, ("train",))
    batches = RetrievalBatches(
        histories,
        item_rows=dataset.schema.item_rows,
        batch_size=config.batch_size,
        history_length=config.history_length,
        ordered=dataset.schema.has_timestamps,
        seed=config.seed,
    )
    keras.utils.set_random_seed(config.seed)
    schema = dataset.schema.with_modalities({name: store.widths[name] for name in modalities}, store.frames)
    task = build_task(dataset, store, TwoTower(schema, tower_config(config, modalities)))
    steps = config.epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.02, warmup_target=config.learning_rate, warmup_steps=min(200, steps // 10)
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=1.0)
    task.compile(optimizer=optimizer, jit_compile=True)
    optimizer.build(task.trainable_variables)
    requests = validation_requests(dataset, config)
    checkpoint = Checkpoint(checkpoints, task.trainable_variables + optimizer.variables)
    log: list[dict[str, float]] = []
    best: dict[str, np.ndarray] = {}
    if (restored := checkpoint.restore()) is not None:
        state, best = restored
        log = state["log"]
    for epoch in range(len(log), config.epochs):
        if stalled(log, config.patience):
            break
        start = time.perf_counter()
        task.reseed(config.seed * 100_003 + epoch)
        callback = StopOnNonFiniteLoss(epoch, progress, epoch * len(batches), steps)
        fit_log = task.fit(
            batches_of(batches, epoch),
            steps_per_epoch=len(batches),
            epochs=1,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        ).history
        quality = validation_ndcg(task, requests, dataset.profile)
        log.append(
            {
                "epoch": epoch,
                "loss": float(fit_log["loss"][0]),
                "valid_ndcg@20": quality,
                "seconds": time.perf_counter() - start,
            }
        )
        if quality >= max(row["valid_ndcg@20"] for row in log):
            best = snapshot(task.trainable_variables)
        checkpoint.save({"epoch": epoch, "log": log}, best)
    put_back(task.trainable_variables, best)
    write_outputs(task, log, out)
    chosen = max(log, key=lambda row: row["valid_ndcg@20"])
    return {
        "epochs": len(log),
        "best_epoch": chosen["epoch"],
        "valid_ndcg@20": chosen["valid_ndcg@20"],
        "events": len(histories.items),
        "temperature": 1.0 / float(task.two_tower.scale),
    }


def validation_requests(dataset: Dataset, config: RetrievalConfig) -> Requests:
    """Validation users, at most `validation_users` of them by a seeded draw; their history is the train split."""
    requests = make_requests(
        dataset, "valid", known_splits=("train",), history_length=config.history_length, seed=config.seed
    )
    if len(requests.users) > config.validation_users:
        requests = requests.take(
            np.sort(
                np.random.default_rng(config.seed).choice(len(requests.users), config.validation_users, replace=False)
            )
        )
    return requests


def stalled(log: list[dict[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs all fell short of the best before them."""
    if len(log) <= patience:
        return False
    values = [row["valid_ndcg@20"] for row in log]
    return max(values[-patience:]) < max(values[:-patience])


def batches_of(batches: RetrievalBatches, epoch: int):
    """The epoch's batches in the form `fit` takes: through tf.data where TensorFlow trains, as they are elsewhere."""
    if keras.backend.backend() == "tensorflow":
        from data.tfdata import prefetch

        return prefetch(batches, epoch)
    return ((batch,) for batch in batches.epoch(epoch))


def write_outputs(task: RetrievalTask, log: list[dict[str, float]], out: Path) -> None:
    """Towers, the item embeddings every later stage reads, and the learning curve (JSON and TensorBoard)."""
    task.two_tower.save_to(out)
    np.save(out / "item_embeddings.npy", task.all_item_embeddings())
    (out / "history.json").write_text(json.dumps(log, indent=2))
    if keras.backend.backend() == "tensorflow":
        from pipeline.tensorboard import write_curves

        write_curves(out / "tensorboard", log)
