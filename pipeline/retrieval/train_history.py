"""Train the linear towers that learn: item vectors with content whose sum over a history finds the rest of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.history_batches import HistoryBatches
from pipeline.metrics.examples import positive_histories
from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.retrieval.train_retrieval import task_tables
from pipeline.settings.linear import LinearSection
from pipeline.training.checkpoint import Checkpoint, training_variables
from pipeline.training.epoch_steps import LoopSettings, Progress
from pipeline.training.epochs import best_epoch, train_epochs
from pipeline.training.fused_optimizers import FusedAdam
from pipeline.training.warm import same_components, start_history
from towers.config import TowerConfig
from towers.history_task import HistoryTask
from towers.linear import LinearTower
from towers.two_tower import TwoTower

FINAL_RATE = 0.05
"""Share of the learning rate that is left at the end."""


def history_tower_config(section: LinearSection) -> TowerConfig:
    """A linear item tower: unit(id + the modalities' projections); ids are never hidden, contents are."""
    return TowerConfig(
        width=section.width,
        history="sum",
        user_id=False,
        id_dropout=0.0,
        modality_dropout=section.modality_dropout,
        fusion="weighted",
        fusion_weights=(1.0,),
        item_hidden=False,
        temperature=section.softmax_temperature,
        seed=section.seed,
    )


def train_history(
    dataset: Dataset,
    store: FeatureStore,
    judge: LinearJudge,
    checkpoints: Path,
    section: LinearSection,
    *,
    loss: str,
    modalities: tuple[str, ...],
    progress: Progress,
    splits: tuple[str, ...] = ("train",),
    epochs: int | None = None,
    warm: Path | None = None,
    keep: Path | None = None,
) -> tuple[LinearTower, dict[str, Any]]:
    """Train with the loss `elsa` or `softmax` and keep the epoch with the best validation NDCG@20.

    Args:
        judge: of the validation split. checkpoints: a folder of this training alone; an interrupted one resumes from it.
        modalities: the content that the item tower reads.
        splits: whose events are learned from. epochs: train for just so many, without a look at the validation split, and
            keep the last.
        warm: folder of earlier towers to go on from. keep: folder that takes the trained ones.

    Returns: the tower, and the figures of the training.
    """
    rate, dropout = (
        (section.elsa_learning_rate, section.elsa_dropout)
        if loss == "elsa"
        else (section.softmax_learning_rate, section.softmax_dropout)
    )
    histories = positive_histories(dataset, splits)
    counts = np.bincount(histories.items, minlength=dataset.schema.item_rows)
    rows = np.flatnonzero(counts)
    batches = HistoryBatches(
        histories,
        rows,
        item_rows=dataset.schema.item_rows,
        users_per_batch=section.users_per_batch,
        seed=section.seed,
    )
    keras.utils.set_random_seed(section.seed)
    schema = dataset.schema.with_modalities({name: store.widths[name] for name in modalities}, store.frames)
    config = history_tower_config(section)
    two_tower = TwoTower(schema, config if warm is None else same_components(config, warm))
    task = HistoryTask(
        two_tower,
        loss=loss,
        rows=rows,
        dropout=dropout,
        seed=section.seed + 200,
        adapt=warm is None,
        **{**task_tables(dataset, store, two_tower), "counts": counts},
    )
    if warm is not None:
        start_history(warm, two_tower)
    steps = section.epochs * len(batches)
    schedule = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=FINAL_RATE * rate)
    # To compile takes longer than the few steps of a warm start.
    task.compile(optimizer=FusedAdam(schedule), jit_compile=warm is None)
    task.optimizer.build(task.trainable_variables)

    def tower() -> LinearTower:
        items = task.all_item_embeddings()
        return LinearTower(items, items)

    log = train_epochs(
        task,
        batches,
        (lambda: judge.ndcg(judge.scores(tower()))) if epochs is None else (lambda: math.nan),
        Checkpoint(checkpoints, training_variables(task, constant=task.tables.values())),
        LoopSettings(
            epochs=epochs or section.epochs,
            patience=section.patience,
            seed=section.seed * 100_003,
            keep_last=epochs is not None,
            name=f"linear.{loss}",
            advice=f"Lower linear.{loss}_learning_rate, or look for infinite values in the feature tables",
        ),
        progress,
    )
    best = best_epoch(log, "valid_ndcg@20") if epochs is None else log[-1]
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        two_tower.save_to(keep)
    return tower(), {
        "epochs": len(log),
        "best_epoch": best["epoch"],
        "valid_ndcg@20": best["valid_ndcg@20"],
        "seconds": sum(row["seconds"] for row in log),
    }
