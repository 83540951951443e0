"""What the towers train on: one device, or several of one machine or more, under TensorFlow or JAX."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import keras

from data.batches import Batch
from pipeline.settings.config import RetrievalConfig
from pipeline.training.feed import Batches, Feed, feed_of
from pipeline.training.workers import ALONE
from towers.global_negatives import filled_for
from towers.task import RetrievalTask

Kind = Literal["cpu", "gpu", "tpu"]
ADVICE = "change what is named, or hide all devices but one (CUDA_VISIBLE_DEVICES)"


class Accelerator:
    """A single device, and what several have to do differently.

    Attributes:
        kind: of the device. replicas: devices that share each batch. workers: processes that have them.
    """

    replicas = 1
    workers = ALONE

    def __init__(self, kind: Kind = "cpu"):
        self.kind = kind

    def scope(self) -> AbstractContextManager:
        """Models are made, compiled and trained within."""
        return nullcontext()

    def task_class(self, task: type[RetrievalTask]) -> type[RetrievalTask]:
        """The class to make the task of."""
        return task

    def feed(self, batches: Batches) -> Feed:
        """How the task reads its batches."""
        return feed_of(batches)

    @property
    def static(self) -> bool:
        """Whether batches are all of one shape, as a TPU's compiler wants them."""
        return self.kind == "tpu"

    def agreed(self, value: float) -> float:
        """A figure that decides how training goes on: the first worker's own, for all of them."""
        return value

    def fitted(self, config: RetrievalConfig) -> RetrievalConfig:
        """The settings with what "auto" means here; large tables are trained by rows on a single device alone.

        Raises:
            ValueError: settings that several devices cannot keep.
        """
        precision = config.precision
        if precision == "auto":
            precision = "bfloat16" if self.has_bfloat16() else "float32"
        sparse = config.sparse_updates if self.replicas == 1 else False
        fitted = config.model_copy(update={"precision": precision, "sparse_updates": sparse})
        if self.replicas > 1:
            wrong = [f"{name} = {value!r}" for name, (value, allowed) in self.limits(config).items() if not allowed]
            if wrong:
                raise ValueError(
                    f"retrieval.accelerator: {self.replicas} devices cannot train with {', '.join(wrong)}; {ADVICE}"
                )
        return fitted

    def limits(self, config: RetrievalConfig) -> dict[str, tuple[Any, bool]]:
        """{setting: (its value, whether several devices can keep it)}."""
        return {
            "batch_size": (config.batch_size, config.batch_size % self.replicas == 0),
            "sparse_updates": (config.sparse_updates, config.sparse_updates is not True),
        }

    def has_bfloat16(self) -> bool:
        """Whether matrix products in bfloat16 are the device's own."""
        return self.kind == "tpu"


class FilledBatches:
    """Batches whose items and columns divide by the number of replicas."""

    def __init__(self, batches: Batches, replicas: int):
        self.batches, self.replicas = batches, replicas

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """As the batches within, each filled up."""
        return (filled_for(batch, self.replicas) for batch in self.batches.epoch(number, start))


def missing(kind: str, found: str) -> ValueError:
    """The error of a device that is asked for and not there."""
    return ValueError(
        f'retrieval.accelerator: must name a device that {keras.backend.backend()} finds, received "{kind}" where there is '
        f'{found}; install its driver and its requirements, or set "auto"'
    )
