"""Retrieval training on several TensorFlow replicas: each runs the towers on its part, and all share the negatives."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from towers.global_negatives import part_of
from towers.task import RetrievalTask


class ReplicatedTask(RetrievalTask):
    """A `RetrievalTask` under a strategy of `tf.distribute`; to be made, compiled and fitted within its scope.

    Every replica reads the whole batch, integers alone, and slices off its own part. It embeds its share of the distinct
    items; an all-gather puts the embeddings of all replicas one after the other; its queries are compared with all
    columns. So what the columns carry (log Q, copies, own columns, a user's other positives) is the joined batch's by
    construction, and only embeddings and gradients travel. Losses and gradients of the replicas add up to those of one
    device with the joined batch.

    `fit` is a loop of its own: Keras's takes a batch off the feed before the first step, and fails where several
    processes train. `batches`: the dataset of `replicated_feed`.
    """

    def compile(self, optimizer: Any = "rmsprop", *, jit_compile: Any = "auto", **options: Any) -> None:
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **options)
        add_up_before_clipping(self.optimizer)
        self._taken = tf.function(self._take)

    def embed_batch(self, batch: dict[str, Any], training: bool = False) -> Any:
        return gathered(super().embed_batch(batch, training=training))

    def column_rows(self, batch: dict[str, Any]) -> Any:
        return batch["column_rows"]

    def compute_loss(self, x: Any = None, *arguments: Any, **options: Any) -> Any:
        return x["share"] * super().compute_loss(x, *arguments, **options)

    def train_step(self, data: Any) -> Any:
        context = tf.distribute.get_replica_context()
        part = part_of(data[0], context.replica_id_in_sync_group, context.num_replicas_in_sync)
        return super().train_step((part,))

    def _take(self, iterator: Any, steps: Any) -> None:
        for _ in tf.range(steps):
            self.distribute_strategy.run(self.train_step, args=(next(iterator),))

    def fit(self, batches: Any, *, steps_per_epoch: int, callbacks: keras.callbacks.CallbackList, **_: Any) -> None:
        """One epoch of so many steps, `steps_per_execution` of them a call."""
        self.reset_metrics()
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(0)
        iterator, done, logs = iter(batches), 0, {}
        while done < steps_per_epoch:
            steps = min(self.steps_per_execution, steps_per_epoch - done)
            callbacks.on_train_batch_begin(done)
            self._taken(iterator, tf.constant(steps))
            done += steps
            logs = self.get_metrics_result()
            callbacks.on_train_batch_end(done - 1, logs)
        callbacks.on_epoch_end(0, logs)
        callbacks.on_train_end(logs)


def gathered(values: tf.Tensor) -> tf.Tensor:
    """The values of all replicas one after the other, with the gradient of that: the sum of what all replicas ask for.

    To be called by every replica. Shapes: [U / R, D] -> [U, D], the same everywhere.
    """

    @tf.custom_gradient
    def gather(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            asked = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
            parts = tf.reshape(asked, (context.num_replicas_in_sync, -1, values.shape[-1]))
            return parts[context.replica_id_in_sync_group]

        return tf.distribute.get_replica_context().all_gather(values, axis=0), gradient

    return gather(values)


def add_up_before_clipping(optimizer: keras.optimizers.Optimizer) -> None:
    """Let an optimizer clip the sum of the replicas' gradients, as one device would.

    Keras clips each replica's gradient and adds up afterwards, so that four replicas could move the weights by four times
    the norm allowed. Afterwards the optimizer is to be applied in replicas alone.
    """
    apply = optimizer.apply

    def apply_sums(gradients: Any, variables: Any = None) -> None:
        known = [gradient for gradient in gradients if gradient is not None]
        sums = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, known))
        apply([None if gradient is None else next(sums) for gradient in gradients], variables)

    optimizer.apply = apply_sums
    # What Keras would add up once more after clipping is the sum already.
    optimizer._all_reduce_sum_gradients = list


def replicated_feed(dataset: Any, strategy: tf.distribute.Strategy) -> Any:
    """A dataset of batches, every replica of this process reading each of them whole."""
    copies = len(strategy.extended.worker_devices)
    return strategy.distribute_datasets_from_function(
        lambda _: dataset.flat_map(lambda *batch: tf.data.Dataset.from_tensors(batch).repeat(copies))
    )
