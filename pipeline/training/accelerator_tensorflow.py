"""Devices under TensorFlow: a strategy of `tf.distribute` for several of a machine, of several machines, or a TPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from pipeline.settings.config import RetrievalConfig
from pipeline.training.accelerator import Accelerator, FilledBatches, Kind, missing
from pipeline.training.feed import Batches, Feed, as_dataset
from pipeline.training.replicated_task import ReplicatedTask, replicated_feed
from pipeline.training.workers import ALONE, Workers, workers_of
from towers.task import RetrievalTask

UNGATHERED = {"others": 1}
"""What may be as long as it happens to be in a batch: no replica asks another for it."""


class TensorflowDevice(Accelerator):
    """One device: TensorFlow places everything on the first GPU, unless it is told to use the processor."""

    def scope(self) -> AbstractContextManager:
        gpus = tf.config.list_logical_devices("GPU")
        return tf.device("/CPU:0") if self.kind == "cpu" and gpus else nullcontext()

    def has_bfloat16(self) -> bool:
        return self.kind == "tpu" or (self.kind == "gpu" and all(map(_has_bfloat16, tf.config.list_physical_devices("GPU"))))


class TensorflowReplicas(TensorflowDevice):
    """Several devices under a strategy: each takes its part of a batch, see `pipeline.training.replicated_task`."""

    def __init__(self, kind: Kind, strategy: tf.distribute.Strategy, workers: Workers = ALONE):
        super().__init__(kind)
        self.strategy, self.replicas, self.workers = strategy, strategy.num_replicas_in_sync, workers

    def scope(self) -> AbstractContextManager:
        return self.strategy.scope()

    def task_class(self, task: type[RetrievalTask]) -> type[RetrievalTask]:
        return ReplicatedTask

    @property
    def static(self) -> bool:
        """A collective of TensorFlow keeps the shape that it was first run with."""
        return True

    def agreed(self, value: float) -> float:
        """Workers of different processors may disagree in the last digit, and must not on whether to stop."""
        if self.workers.number == 1:
            return value

        def own() -> tf.Tensor:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            return tf.where(tf.equal(number, 0), tf.constant(value, tf.float64), tf.constant(0.0, tf.float64))

        return float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(own), axis=None))

    def feed(self, batches: Batches) -> Feed:
        filled = FilledBatches(batches, self.replicas)
        return lambda epoch, start: replicated_feed(
            as_dataset(filled.epoch(epoch, start), len(filled) - start, UNGATHERED), self.strategy
        )

    def limits(self, config: RetrievalConfig) -> dict[str, tuple[Any, bool]]:
        """Beside the rest: state that a batch changes, and what Keras does not do in replicas."""
        side = config.side.weights().terms
        return super().limits(config) | {
            "loss.log_q": (config.loss.log_q, config.loss.log_q != "streaming"),
            "loss.memory": (config.loss.memory, not config.loss.memory),
            "side": (side, not side),
            "accumulation": (config.accumulation, config.accumulation == 1),
            "average_decay": (config.average_decay, not config.average_decay),
            "precision": (config.precision, config.precision != "float16"),
            # The longest list of a batch is another shape each time.
            "loss.exclude_positives": (
                config.loss.exclude_positives,
                self.kind != "tpu" or not config.loss.options().needs_others,
            ),
        }


def make_accelerator(setting: str) -> Accelerator:
    """The accelerator that a setting names: all devices of that kind.

    Raises:
        ValueError: a device that is not there; workers that began to compute before they met.
    """
    workers = workers_of()
    if workers.number > 1:
        strategy = _met(setting, workers)
        return TensorflowReplicas(_kind(setting), strategy, workers)
    kind = _kind(setting)
    if kind == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect("local")
        return TensorflowReplicas(kind, tf.distribute.TPUStrategy(resolver))
    devices = tf.config.list_logical_devices(kind.upper())
    if len(devices) == 1:
        return TensorflowDevice(kind)
    return TensorflowReplicas(kind, tf.distribute.MirroredStrategy([device.name for device in devices]))


def _met(setting: str, workers: Workers) -> tf.distribute.Strategy:
    """The strategy of all workers; waits until each of them is there."""
    if setting == "tpu" or (setting == "cpu" and tf.config.list_physical_devices("GPU")):
        raise ValueError(
            f'retrieval.accelerator: {workers.number} workers train on all GPUs of their machines, or on processors where '
            f'there are none, received "{setting}"; set "auto", or hide the GPUs (CUDA_VISIBLE_DEVICES=-1)'
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "TF_CONFIG: workers must meet before TensorFlow computes anything in this process; run the other stages first, "
            "on one machine, and only `python -m pipeline train-retrieval` on all of them"
        ) from error


def _kind(setting: str) -> Kind:
    kinds: tuple[Kind, ...] = ("tpu", "gpu", "cpu")
    for kind in kinds:
        if setting in ("auto", kind) and tf.config.list_physical_devices(kind.upper()):
            return kind
    raise missing(setting, "none of the kind")


def _has_bfloat16(gpu: Any) -> bool:
    """NVIDIA's GPUs multiply bfloat16 in hardware from compute capability 8.0 (Ampere) on."""
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)
