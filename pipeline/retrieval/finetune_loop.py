"""Epochs of fine-tuning: the loop of every training, with the vectors made anew after each epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from data.dataset import Dataset
from pipeline.retrieval.finetune_batches import EncoderInputs, FinetuneBatches
from pipeline.retrieval.train_retrieval import validation_ndcg, validation_requests
from pipeline.settings.config import Config
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.epoch_steps import LoopSettings, Progress
from pipeline.training.epochs import train_epochs
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
    retrieval = config.retrieval
    requests = validation_requests(dataset, retrieval)
    settings = LoopSettings(
        epochs=config.encoders.finetune.epochs,
        patience=retrieval.patience,
        seed=retrieval.seed * 100_003 + 50_000,
        name="finetune",
        advice="Lower encoders.<modality>.learning_rate or retrieval.learning_rate, or raise "
        "encoders.finetune.warmup_steps",
    )
    with warnings.catch_warnings():
        # A part of the backbone that its vectors do not use (BERT's pooler) has no gradient.
        warnings.filterwarnings("ignore", message="Gradients do not exist")
        return train_epochs(
            task,
            batches,
            lambda: validation_ndcg(task, requests, dataset.profile),
            checkpoint,
            settings,
            progress,
            refresh=lambda: refresh(task, batches.inputs),
        )


def refresh(task: FinetuneTask, inputs: Mapping[str, EncoderInputs]) -> None:
    """Encode every item anew, as the encode stage would, and put the vectors in the task's tables."""
    for name, encoder_inputs in inputs.items():
        table = task.features(name)
        for rows, vectors in encoder_inputs.encode_all():
            table[rows] = vectors
        task.replace_features(name, table)
