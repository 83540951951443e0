"""Batches through tf.data: the one file of this room that needs TensorFlow, so that JAX training works without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.batches import RetrievalBatches

if TYPE_CHECKING:
    import tensorflow as tf


def prefetch(batches: RetrievalBatches, epoch: int, depth: int = 4) -> tf.data.Dataset:
    """One epoch as a `tf.data.Dataset` that prepares the next batches while the device works on this one.

    Elements are one-tuples of the batch dict, the form that `keras.Model.fit` takes for inputs without targets.
    """
    import tensorflow as tf

    size, length, capacity = batches.batch_size, batches.history_length, batches.capacity
    signature = {
        "user": tf.TensorSpec((size,), tf.int32),
        "items": tf.TensorSpec((capacity,), tf.int32),
        "target": tf.TensorSpec((size,), tf.int32),
        "history": tf.TensorSpec((size, length), tf.int32),
        "weight": tf.TensorSpec((size,), tf.float32),
    }
    source = tf.data.Dataset.from_generator(
        lambda: ((batch,) for batch in batches.epoch(epoch)), output_signature=(signature,)
    )
    return source.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(depth)
