"""What `keras.Model.fit` reads an epoch from: batches made ahead while the device works, whatever the backend."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from data.batches import RAGGED

Batch = dict[str, np.ndarray]
Feed = Callable[[int, int], Iterable]
"""(epoch, first step) -> what `fit` takes: one-tuples of batches, or a `tf.data.Dataset` of them."""

AHEAD = 4
"""Batches made before they are asked for."""
BURST, SMALL_BATCH = 8, 2**20
"""Batches of less than so many bytes are made so many at once: for the second, code and tables are still in the cache."""


class Batches(Protocol):
    """Training batches of one epoch, in an order that depends on the number of the epoch alone."""

    def __len__(self) -> int:
        """Steps of an epoch."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on; those before it are skipped without being made."""
        ...


def feed_of(batches: Batches) -> Feed:
    """The usual feed: through tf.data where TensorFlow trains, from a thread elsewhere (nothing imports TensorFlow)."""
    if keras.backend.backend() == "tensorflow":
        return lambda epoch, start: as_dataset(batches.epoch(epoch, start), len(batches) - start)
    return lambda epoch, start: ((batch,) for batch in made_ahead(batches.epoch(epoch, start)))


def as_dataset(batches: Iterator[Batch], steps: int, ragged: Mapping[str, int] = RAGGED):
    """An iterator of `steps` batches as a `tf.data.Dataset` of one-tuples that can be read once.

    All of one shape, but for the axes in `ragged`.
    """
    import tensorflow as tf

    first = next(batches)
    burst = BURST if sum(value.nbytes for value in first.values()) < SMALL_BATCH else 1
    rest = in_bursts(itertools.chain([first], batches), burst)
    shapes = {name: shape_of(name, value, ragged) for name, value in first.items()}

    def read(_: Any) -> list[np.ndarray]:
        batch = next(rest)
        return [batch[name] for name in shapes]

    def batch_of(step):
        # One call into Python a batch; `from_generator` makes several, and they cost as much as a small step.
        tensors = tf.numpy_function(read, [step], [value.dtype for value in first.values()])
        for tensor, shape in zip(tensors, shapes.values(), strict=True):
            tensor.set_shape(shape)
        return (dict(zip(shapes, tensors, strict=True)),)

    options = tf.data.Options()
    # There is nothing to tune, and the thread that would tune it ends late: where an epoch ends, up to as long again as the
    # epoch took was waited for it.
    options.autotune.enabled = False
    return tf.data.Dataset.range(steps).map(batch_of).prefetch(max(AHEAD, burst)).with_options(options)


def in_bursts(batches: Iterator[Batch], number: int) -> Iterator[Batch]:
    """The same batches in the same order, `number` of them made whenever there is none left.

    Example:
        >>> made = []
        >>> batches = in_bursts((made.append(n) or {"user": n} for n in range(5)), 3)
        >>> [(next(batches)["user"], len(made)) for _ in range(5)]
        [(0, 3), (1, 3), (2, 3), (3, 5), (4, 5)]
    """
    while burst := list(itertools.islice(batches, number)):
        yield from burst


def shape_of(name: str, value: np.ndarray, ragged: Mapping[str, int] = RAGGED) -> tuple[int | None, ...]:
    """The shape that all batches share; None where they differ.

    Example:
        >>> shape_of("items", np.zeros(5)), shape_of("history", np.zeros((4, 5)))
        ((None,), (4, 5))
    """
    return tuple(None if ragged.get(name) == axis else length for axis, length in enumerate(value.shape))


def made_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches in the same order, made by a thread that is at most `AHEAD` of them before the reader.

    Whatever making a batch raises is raised where the batch would have come. A reader that leaves early ends the thread.

    Example:
        >>> [int(batch["user"][0]) for batch in made_ahead({"user": np.array([n])} for n in range(3))]
        [0, 1, 2]
    """
    ready: queue.Queue = queue.Queue(AHEAD)
    left = threading.Event()

    def put(item) -> bool:
        while not left.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=work, name="batches", daemon=True).start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        left.set()
