"""The finetune stage: encoders learn inside the item tower, and become encoders of their own.

First the towers learn on the store's vectors as they are, then towers and encoders together: an encoder that follows
the gradient of untrained towers would lose what it was pretrained to (Kumar et al., *Fine-Tuning can Distort Pretrained
Features*, ICLR 2022).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.batches import RetrievalBatches
from data.dataset import Dataset
from data.features import FeatureStore
from data.loss_columns import LossColumns
from pipeline.metrics.examples import positive_histories
from pipeline.retrieval.finetune_batches import EncoderInputs, FinetuneBatches
from pipeline.retrieval.finetune_loop import run_epochs
from pipeline.retrieval.train_retrieval import task_tables, train_retrieval
from pipeline.settings.config import Config
from pipeline.training.checkpoint import Checkpoint, training_variables
from pipeline.training.epochs import Progress, best_epoch
from pipeline.training.optimizer import check_accumulation
from towers.encoders import make_encoder, resolve_spec
from towers.finetune import TrainableEncoder
from towers.finetune_optimizer import TwoRateAdamW
from towers.finetune_task import FinetuneTask
from towers.finetuned_encoder import TunedDescription, save_tuned
from towers.two_tower import load_two_tower

TOWER_EPOCHS = 3
"""Epochs of the towers alone before the encoders join; they cost seconds, since vectors are gathered and not made."""


def finetune(
    dataset: Dataset,
    store: FeatureStore,
    source: str | Path,
    out: Path,
    checkpoints: Path,
    config: Config,
    *,
    progress: Progress,
    tower_epochs: int = TOWER_EPOCHS,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Tune the encoders whose `train` is not `frozen`; write each to `out/<modality>`, ready for `tuned:<folder>`.

    The epoch with the best validation NDCG@20 is kept; `retrieval.patience` epochs without a better one end it.

    Args:
        dataset, store: ingested events, and the vectors of the untouched encoders.
        source: the dataset folder, for its media.
        out: a folder to fill. checkpoints: outlives a kill; training goes on after the last finished epoch.
        config: `encoders` says what learns and how, `retrieval` how the towers do, with which loss in both parts.
        progress: called with what, steps done, steps in all.
        tower_epochs: epochs of the towers alone at the start.
        weights: folder of the encoders' converted weights; see `make_encoder`.

    Returns: epochs, the best one, NDCG@20 on the validation split then and after the epochs of the towers alone (which is
        no comparison, since the towers went on learning too: see `benchmarks/finetune.py` for one), seconds, and by
        modality the encoder, how much of it learns, and how far its vectors moved.

    Raises:
        ValueError: nothing to tune, or an encoder that cannot be. NonFiniteLossError: at the very step.
    """
    section, retrieval = config.encoders.finetune, config.retrieval
    encoders = trainable_encoders(config, store, weights)
    inputs = {
        name: EncoderInputs(
            encoder.encoder,
            dataset.items,
            store.present_of(name),
            Path(source) / "media",
            section.text_tokens,
        )
        for name, encoder in encoders.items()
    }
    towers = out / "towers"
    towers.mkdir(parents=True)
    start = train_retrieval(
        dataset,
        store,
        towers,
        checkpoints / "towers",
        retrieval.model_copy(update={"epochs": tower_epochs}),
        modalities=store.modalities,
        progress=lambda what, done, total: progress("towers", done, total),
    )
    two_tower = load_two_tower(towers)
    events = RetrievalBatches(
        positive_histories(dataset, ("train",), kinds=retrieval.needs_kinds),
        item_rows=dataset.schema.item_rows,
        batch_size=retrieval.batch_size,
        history_length=0 if retrieval.history == "none" else retrieval.history_length,
        ordered=dataset.schema.has_timestamps,
        seed=retrieval.seed + 1,
        kind_weights=retrieval.loss.kind_weights(),
        columns=LossColumns(item_rows=dataset.schema.item_rows, **retrieval.loss.options().columns),
    )
    task = FinetuneTask(
        two_tower,
        encoders,
        **task_tables(dataset, store, two_tower),
        drawn=events.drawn,
        loss=retrieval.loss.options(),
        batch_size=retrieval.batch_size,
    )
    batches = FinetuneBatches(events, inputs, items_per_step=section.items_per_step, seed=retrieval.seed)
    optimizer = make_optimizer(task, encoders, config, steps=section.epochs * len(batches))
    task.compile(optimizer=optimizer, jit_compile=compiles_well(encoders))
    before = {name: np.asarray(store.table(name)) for name in encoders}
    checkpoint = Checkpoint(checkpoints / "encoders", training_variables(task, constant_variables(task, encoders)))
    log = run_epochs(task, batches, dataset, checkpoint, config, progress)
    task.two_tower.save_to(towers)
    np.save(towers / "item_embeddings.npy", task.all_item_embeddings())
    for name, encoder in encoders.items():
        chosen = config.encoders.trained()[name]
        base = encoder.encoder
        description = TunedDescription(name, resolve_spec(name, chosen.spec), base.fingerprint, chosen.train)
        save_tuned(out / name, description, encoder.changes())
    (out / "history.json").write_text(json.dumps(log, indent=2))
    best = best_epoch(log, "valid_ndcg@20")
    return {
        "epochs": len(log),
        "best_epoch": best["epoch"],
        "valid_ndcg@20": best["valid_ndcg@20"],
        "valid_ndcg@20_towers_alone": start["valid_ndcg@20"],
        "seconds_per_epoch": round(float(np.mean([row["seconds"] for row in log])), 3),
        "encoders": {
            name: {
                "encoder": encoder.encoder.name,
                "trained_weights": int(sum(np.prod(variable.shape) for variable in encoder.trained)),
                "weights": int(encoder.model.count_params()),
                "mean_cosine_to_before": mean_cosine(before[name], task.features(name)),
            }
            for name, encoder in encoders.items()
        },
    }


def trainable_encoders(config: Config, store: FeatureStore, weights: Path | None = None) -> dict[str, TrainableEncoder]:
    """The encoders that learn, by modality, with exactly the weights that learn marked so."""
    trained = config.encoders.trained()
    if not trained:
        raise ValueError('encoders: nothing to tune; set train = "lora", "last_k" or "full" for one of them')
    encoders = {}
    keras.utils.set_random_seed(config.retrieval.seed)
    for name, section in trained.items():
        if name == "video":
            raise ValueError("encoders.video.train: videos are read by an image encoder and cannot be tuned; tune image")
        if name not in store.modalities:
            raise ValueError(f"encoders.{name}.train: the store holds {store.modalities}; run `encode` with {name} first")
        encoder = make_encoder(name, section.spec, weights)
        if encoder is None or encoder.width != store.widths[name]:
            raise ValueError(
                f"encoders.{name}.train: {section.spec!r} must be what the store was encoded with, whose width is "
                f"{store.widths[name]}, received {encoder.width if encoder else None}; ready-made vectors cannot be tuned"
            )
        encoders[name] = TrainableEncoder(
            encoder,
            section.train,
            lora_rank=section.lora_rank,
            last_k=section.last_k,
            mixed_precision=config.encoders.finetune.mixed_precision,
        )
    return encoders


def constant_variables(task: FinetuneTask, encoders: Mapping[str, TrainableEncoder]) -> list[keras.Variable]:
    """What no step changes: tables of what is not tuned, and the frozen weights of the encoders."""
    tuned = {f"features_{name}" for name in encoders}
    tables = [table for name, table in task.tables.items() if name not in tuned]
    return tables + [weight for encoder in encoders.values() for weight in encoder.model.non_trainable_weights]


def make_optimizer(
    task: FinetuneTask, encoders: dict[str, TrainableEncoder], config: Config, *, steps: int
) -> TwoRateAdamW:
    """Warm-up and cosine decay over `steps` for everything, each encoder at its own rate."""
    retrieval, section = config.retrieval, config.encoders.finetune
    check_accumulation("encoders.finetune.accumulation", section.accumulation, steps)
    # A warm-up longer than half of the training would never reach the rate that was asked for.
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        alpha=retrieval.final_rate,
        warmup_target=retrieval.learning_rate,
        warmup_steps=min(section.warmup_steps, steps // 2),
    )
    optimizer = TwoRateAdamW(
        schedule,
        ratios=[
            (encoder.trained, config.encoders.trained()[name].rate / retrieval.learning_rate)
            for name, encoder in encoders.items()
        ],
        weight_decay=retrieval.weight_decay,
        global_clipnorm=1.0,
        accumulation=section.accumulation,
    )
    optimizer.build(task.trainable_variables)
    return optimizer


def compiles_well(encoders: Mapping[str, TrainableEncoder]) -> bool:
    """Whether XLA is worth it: always on an accelerator; on a CPU its convolutions are slower than the plain ones."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    convolutions = any(
        "conv" in type(layer).__name__.lower() for encoder in encoders.values() for layer in encoder.model._flatten_layers()
    )
    return bool(tf.config.list_logical_devices("GPU")) or not convolutions


def mean_cosine(before: np.ndarray, after: np.ndarray) -> float:
    """Mean cosine between the rows of two tables [N + 1, F]; rows of zeros are left out."""
    a, b = before.astype(np.float32), after.astype(np.float32)
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    kept = length > 0
    return float(((a * b).sum(axis=1)[kept] / length[kept]).mean()) if kept.any() else 1.0
