"""Training on whatever devices a process has: the loss of one step, how far it moves every weight, then an epoch.

Under plain descent at rate 1 a weight moves by its gradient.
Arguments: folder of the world, weights to start from, folder to fill, settings as JSON, virtual processors of TensorFlow,
1 to train an epoch too, 1 to clip the step.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from data.batches import RetrievalBatches
from data.loss_columns import LossColumns
from pipeline.metrics.examples import positive_histories
from pipeline.retrieval import train_retrieval as module
from pipeline.retrieval.train_retrieval import new_towers, task_tables, tower_config
from pipeline.settings.config import RetrievalConfig
from pipeline.training.accelerator_choice import accelerator_of
from pipeline.training.accelerator_jax import TABLES
from pipeline.training.checkpoint import array_of
from tests.pipeline.train_in_process import start_from
from tests.pipeline.training_world import open_world
from towers.task import RetrievalTask

CLIPPED = {"global_clipnorm": 0.01}


class Losses(keras.callbacks.CallbackList):
    """The loss of the step."""

    def __init__(self, task):
        super().__init__([], add_history=True, model=task)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.loss = float(logs["loss"])


def make_batches(dataset, config, static):
    histories = positive_histories(dataset, ("train",))
    columns = LossColumns(item_rows=dataset.schema.item_rows, **config.loss.options().columns)
    shared = {"history_length": config.history_length, "ordered": True, "seed": 1, "static": static}
    return RetrievalBatches(
        histories, item_rows=dataset.schema.item_rows, batch_size=config.batch_size, columns=columns, **shared
    )


def moves(world, weights, config, **clipping):
    """{name: array}: the loss, how far each weight moved in one step, and how many devices shared it."""
    dataset, store = open_world(world)
    accelerator = accelerator_of(config)
    batches = make_batches(dataset, config, accelerator.static)
    config = accelerator.fitted(config)
    schema = dataset.schema.with_modalities({"text": store.widths["text"]}, store.frames)
    with accelerator.scope():
        two_tower = new_towers(dataset, schema, tower_config(config, ("text",)))
        task = accelerator.task_class(RetrievalTask)(
            two_tower, **task_tables(dataset, store, two_tower), loss=config.loss.options(), batch_size=config.batch_size
        )
        two_tower.load_weights(weights)
        task.compile(optimizer=keras.optimizers.SGD(1.0, **clipping))
        task.optimizer.build(task.trainable_variables)
        trained = task.trainable_variables
        before = [np.array(array_of(variable)) for variable in trained]
        # The last step of the epoch: its batch is not full, and its parts have different weights.
        watch, last = Losses(task), len(batches) - 1
        task.fit(
            accelerator.feed(batches)(0, last), steps_per_epoch=1, epochs=1, shuffle=False, verbose=0, callbacks=watch
        )
        after = [array_of(variable) for variable in trained]
    moved = {f"{place:02d} {v.path}": a - b for place, (v, a, b) in enumerate(zip(trained, after, before, strict=True))}
    return {"loss": np.array(watch.loss), "replicas": np.array(accelerator.replicas), **moved, **parts_of(task)}


def parts_of(task):
    """{name: shape of the part on one device} of the tables that JAX may split."""
    if keras.backend.backend() != "jax":
        return {}
    tables = [variable for variable in task.variables if TABLES.search(variable.path)]
    return {f"part {n}": np.array(v.value.sharding.shard_shape(tuple(v.shape))) for n, v in enumerate(tables)}


def train(world, weights, folder, config):
    """The whole training from these weights; returns the item embeddings that it wrote."""
    dataset, store = open_world(world)
    folder.mkdir(parents=True, exist_ok=True)
    make = module.new_towers
    start_from(weights)
    try:
        checkpoints = folder / "kept"
        module.train_retrieval(
            dataset, store, folder, checkpoints, config, modalities=("text",), progress=lambda *_: None
        )
    finally:
        module.new_towers = make
    return np.load(folder / "item_embeddings.npy")


def main(world, weights, folder, settings, processors, epoch, clipped):
    if int(processors) > 1:
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * int(processors)
        )
    config = RetrievalConfig(**json.loads(settings))
    Path(folder).mkdir(parents=True)
    np.savez(Path(folder) / "step.npz", **moves(Path(world), weights, config, **(CLIPPED if int(clipped) else {})))
    if int(epoch):
        train(Path(world), weights, Path(folder), config)


if __name__ == "__main__":
    main(*sys.argv[1:])
