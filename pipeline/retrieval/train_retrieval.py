"""Train one variant of the two towers: epochs of in-batch softmax, judged on validation NDCG@20, resumable to the
batch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.batches import RetrievalBatches
from data.dataset import Dataset
from data.features import FeatureStore
from data.loss_columns import LossColumns
from data.schema import Schema
from data.validation import DatasetError
from pipeline.metrics.examples import Requests, make_requests, positive_histories
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import dot_product_scores, top_k
from pipeline.retrieval.queries import embed_queries
from pipeline.retrieval.side_losses import make_side_losses
from pipeline.settings.config import RetrievalConfig
from pipeline.training.accelerator import Accelerator
from pipeline.training.accelerator_choice import accelerator_of
from pipeline.training.checkpoint import Checkpoint, training_variables
from pipeline.training.epoch_steps import LoopSettings, Progress, steps_a_call
from pipeline.training.epochs import AfterEpoch, best_epoch, seed_everything, train_epochs
from pipeline.training.optimizer import computing_in, make_optimizer
from pipeline.training.private_training import PrivateTraining
from pipeline.training.record import training_record, write_records
from pipeline.training.warm import WarmTowers
from towers.config import TowerConfig
from towers.task import RetrievalTask
from towers.two_tower import TwoTower, load_two_tower


def tower_config(config: RetrievalConfig, modalities: tuple[str, ...], stored: tuple[str, ...] = ()) -> TowerConfig:
    """The part of the run's settings that the towers themselves need. Without content the id is never hidden: nothing
    would remain. Of coefficients for the id and all `stored` modalities, those of the ones that are read are kept."""
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(TowerConfig)
        if hasattr(config, field.name)
    }
    if not modalities:
        shared["id_dropout"] = 0.0
    if stored and len(config.fusion_weights) == 1 + len(stored):  # any other number is for the fusion to judge
        first, *rest = config.fusion_weights
        shared["fusion_weights"] = (first, *(rest[stored.index(name)] for name in modalities))
    return TowerConfig(**shared)


def new_towers(dataset: Dataset, schema: Schema, config: TowerConfig) -> TwoTower:
    """Untrained towers that know the domain of every item, where they have adapters for domains."""
    two_tower = TwoTower(schema, config)
    if two_tower.item_tower.adapters is not None:
        two_tower.item_tower.domain.assign(dataset.attributes[:, list(schema.attributes).index("domain")])
    return two_tower


def build_task(dataset: Dataset, store: FeatureStore, two_tower: TwoTower) -> RetrievalTask:
    """The towers with the tables of the modalities they read on the device."""
    return RetrievalTask(two_tower, **task_tables(dataset, store, two_tower))


def task_tables(dataset: Dataset, store: FeatureStore, two_tower: TwoTower) -> dict[str, Any]:
    """What a `RetrievalTask` gathers from: features and present mask of the modalities, profile, counts."""
    modalities = two_tower.schema.modalities
    return {
        "features": {name: np.asarray(store.table(name)) for name in modalities},
        "present": store.present_of(modalities),
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
    after_epoch: AfterEpoch | None = None,
    warm: WarmTowers | None = None,
) -> dict[str, Any]:
    """Train, keep the epoch with the best validation NDCG@20, and write towers, item embeddings and history to `out`.

    Args:
        out: a folder to fill; the caller renames it.
        checkpoints: outlives a kill; an interrupted run goes on from it and ends with the same weights.
        modalities: the content the item tower may see; empty for the ids-only model.
        after_epoch: called with the log so far; what it raises ends the training.
        warm: earlier towers to go on from, and how. Where nothing is new since them they stay as they are: new rows begin
            at their guess, no step is taken, and the log has one row without a loss.

    Errors: NonFiniteLossError; ValueError when the train split holds no positive event; DatasetError when the validation
    split holds none that is new.
    """
    accelerator = accelerator_of(config)
    config = accelerator.fitted(config if warm is None else warm.settings(config))
    private = None
    if config.privacy.epsilon:
        private = PrivateTraining(config, dataset, checkpoints, replicas=accelerator.replicas, warm=warm is not None)
    histories = positive_histories(dataset, ("train",), kinds=config.needs_kinds)
    positions = None if warm is None else warm.positions(histories)
    nothing_new = positions is not None and not len(positions)
    batches: Any = RetrievalBatches(
        histories,
        item_rows=dataset.schema.item_rows,
        batch_size=config.batch_size,
        history_length=0 if config.history == "none" else config.history_length,
        ordered=dataset.schema.has_timestamps,
        seed=config.seed,
        kind_weights=config.loss.kind_weights(),
        columns=LossColumns(item_rows=dataset.schema.item_rows, **config.loss.options().columns),
        static=accelerator.static,
        positions=None if nothing_new else positions,  # without steps they tell sizes alone
    )
    seed_everything(config.seed)
    schema = dataset.schema.with_modalities({name: store.widths[name] for name in modalities}, store.frames)
    requests = validation_requests(dataset, config)
    with accelerator.scope():
        with computing_in(config.precision):
            two_tower = new_towers(dataset, schema, tower_config(config, modalities, store.modalities))
        side = make_side_losses(dataset, two_tower, config.side, config.distill_ranker)
        tables = task_tables(dataset, store, two_tower)
        settings = loop_settings(config, accelerator)
        if private is None:
            task = accelerator.task_class(RetrievalTask)(
                two_tower,
                **tables,
                drawn=batches.drawn,
                side=side,
                loss=config.loss.options(),
                batch_size=config.batch_size,
                item_capacity=batches.capacity,
                sparse_updates=config.sparse_updates_now,
                adapt=warm is None,
            )
            feed = accelerator.feed(batches)
        else:
            task, batches = private.make_task(two_tower, tables, histories)
            feed, settings = private.feed(batches), private.loop(settings)
        if warm is not None:
            warm.start(two_tower, dataset, store)
        steps = config.epochs * len(batches)
        optimizer = make_optimizer(config if warm is None else warm.paced(config, steps), steps)
        task.compile(optimizer=optimizer)
        optimizer.build(task.trainable_variables)
        kept = training_variables(task, constant=task.tables.values())
        checkpoint = Checkpoint(checkpoints, kept, writes=accelerator.workers.first)

        def validate() -> float:
            return accelerator.agreed(validation_ndcg(task, requests, dataset.profile))

        if nothing_new:
            log = [{"epoch": 0, "valid_ndcg@20": validate(), "seconds": 0.0}]
        else:
            log = train_epochs(
                task, batches, validate, checkpoint, settings, progress, feed=feed, after_epoch=after_epoch
            )
        task.two_tower.save_to(out)
    if config.precision != "float32":
        # What is served computes in float32, whatever it was trained in.
        task = build_task(dataset, store, load_two_tower(out))
        task.two_tower.load_weights(out / "weights.weights.h5")  # the task has standardised content anew
    if private is not None:
        log = private.told(log)
    write_outputs(task, log, out)
    pairs = Interactions.from_pairs(histories.users, histories.items, dataset.schema.user_rows)
    record = training_record(dataset, pairs, ("train",))
    write_records(out, [record])
    chosen = best_epoch(log, "valid_ndcg@20") if private is None else log[-1]
    return {
        "epochs": 0 if nothing_new else len(log),
        "best_epoch": chosen["epoch"],
        "valid_ndcg@20": chosen["valid_ndcg@20"],
        "events": len(histories.items),
        "trained_on": record,
        "temperature": 1.0 / float(task.two_tower.scale),
        **({} if private is None else {"privacy": private.account()}),
    }


def validation_requests(dataset: Dataset, config: RetrievalConfig) -> Requests:
    """Validation users, at most `validation_users` of them by a seeded draw; their history is the train split.

    Raises:
        DatasetError: there is none; the epochs would be trained in vain, since nothing can choose among them.
    """
    requests = make_requests(
        dataset, "valid", known_splits=("train",), history_length=config.history_length, seed=config.seed
    )
    if not len(requests.users):
        raise DatasetError(
            "split: the valid part must have a positive event whose user and item are no pair of the train part, received "
            "none; validation chooses the epoch. Raise data.valid_fraction, choose another data.split, or mend the log's "
            "column `split`."
        )
    if len(requests.users) > config.validation_users:
        requests = requests.take(
            np.sort(
                np.random.default_rng(config.seed).choice(len(requests.users), config.validation_users, replace=False)
            )
        )
    return requests


def loop_settings(config: RetrievalConfig, accelerator: Accelerator) -> LoopSettings:
    """How long to train the towers and how often to save: several workers by steps alone, which they count alike."""
    return LoopSettings(
        epochs=config.epochs,
        patience=config.patience,
        seed=config.seed * 100_003,
        checkpoint_steps=config.checkpoint_steps,
        checkpoint_seconds=config.checkpoint_seconds if accelerator.workers.number == 1 else 0.0,
        steps_a_call=steps_a_call(config.batch_size),
        advice="Lower retrieval.learning_rate, raise retrieval.temperature, or look for infinite values in the feature "
        "tables (`<run>/encode`)",
    )


def write_outputs(task: RetrievalTask, log: list[dict[str, float]], out: Path) -> None:
    """The item embeddings every later stage reads, and the learning curve (JSON and TensorBoard)."""
    np.save(out / "item_embeddings.npy", task.all_item_embeddings())
    (out / "history.json").write_text(json.dumps(log, indent=2))
    if keras.backend.backend() == "tensorflow":
        from pipeline.training.tensorboard import write_curves

        write_curves(out / "tensorboard", log)
