"""Epochs of fine-tuning: fit, refresh the vectors, judge on the validation split, checkpoint."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping

import numpy as np

from data.dataset import Dataset
from pipeline.checkpoint import Checkpoint, put_back, snapshot
from pipeline.config import Config
from pipeline.finetune_batches import EncoderInputs, FinetuneBatches, batches_of
from pipeline.train_retrieval import (
    NonFiniteLossError,
    Progress,
    StopOnNonFiniteLoss,
    stalled,
    validation_ndcg,
    validation_requests,
)
from towers.finetune_task import FinetuneTask


def run_epochs(
    task: FinetuneTask,
    batches: FinetuneBatches,
    dataset: Dataset,
    checkpoint: Checkpoint,
    config: Config,
    progress: Progress,
) -> list[dict[str, float]]:
    """Train until the epochs or the patience are used up; leave the best epoch's weights and vectors in the task."""
    retrieval, epochs = config.retrieval, config.encoders.finetune.epochs
    requests, weights = validation_requests(dataset, retrieval), task.trainable_variables
    log: list[dict[str, float]] = []
    best: dict[str, np.ndarray] = {}
    if (restored := checkpoint.restore()) is not None:
        state, best = restored
        log = state["log"]
        refresh(task, batches.inputs)
    for epoch in range(len(log), epochs):
        if stalled(log, retrieval.patience):
            break
        begun = time.perf_counter()
        task.reseed(retrieval.seed * 100_003 + 50_000 + epoch)
        stop = StopOnNonFiniteTuning(epoch, progress, epoch * len(batches), epochs * len(batches))
        with warnings.catch_warnings():
            # A part of the backbone that its vectors do not use (BERT's pooler) has no gradient.
            warnings.filterwarnings("ignore", message="Gradients do not exist")
            loss = task.fit(
                batches_of(batches, epoch),
                steps_per_epoch=len(batches),
                epochs=1,
                shuffle=False,
                verbose=0,
                callbacks=[stop],
            ).history["loss"][0]
        refresh(task, batches.inputs)
        quality = validation_ndcg(task, requests, dataset.profile)
        seconds = time.perf_counter() - begun
        log.append({"epoch": epoch, "loss": float(loss), "valid_ndcg@20": quality, "seconds": seconds})
        if quality >= max(row["valid_ndcg@20"] for row in log):
            best = snapshot(weights)
        checkpoint.save({"epoch": epoch, "log": log}, best)
    if log[-1]["valid_ndcg@20"] < max(row["valid_ndcg@20"] for row in log):
        put_back(weights, best)
        refresh(task, batches.inputs)
    return log


def refresh(task: FinetuneTask, inputs: Mapping[str, EncoderInputs]) -> None:
    """Encode every item anew, as the encode stage would, and put the vectors in the task's tables."""
    for name, encoder_inputs in inputs.items():
        table = task.features(name)
        for rows, vectors in encoder_inputs.encode_all():
            table[rows] = vectors
        task.replace_features(name, table)


class StopOnNonFiniteTuning(StopOnNonFiniteLoss):
    """`StopOnNonFiniteLoss` with the settings that help here."""

    def on_train_batch_end(self, batch, logs=None):
        try:
            super().on_train_batch_end(batch, logs)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"finetune: the loss is {logs['loss']} in epoch {self.epoch}, step {batch}. Lower "
                f"encoders.<modality>.learning_rate or retrieval.learning_rate, or raise "
                f"encoders.finetune.warmup_steps."
            ) from error
