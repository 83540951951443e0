"""Epochs of any training task: fit, judge on the validation split, keep the best, resumable to the batch."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np

from pipeline.training.checkpoint import Checkpoint, put_back, snapshot
from pipeline.training.epoch_steps import LoopSettings, Progress, train_epoch
from pipeline.training.feed import Batches, Feed, feed_of

AfterEpoch = Callable[[list[dict[str, float]]], None]
"""(log so far): called when an epoch has been judged and saved; what it raises ends the training."""


def train_epochs(
    task: keras.Model,
    batches: Batches,
    validate: Callable[[], float],
    checkpoint: Checkpoint,
    settings: LoopSettings,
    progress: Progress,
    *,
    feed: Feed | None = None,
    refresh: Callable[[], None] | None = None,
    after_epoch: AfterEpoch | None = None,
) -> list[dict[str, float]]:
    """Train until the epochs or the patience are used up; leave the best epoch's weights in the task.

    An interrupted run goes on after the last state saved and ends with the weights of an undisturbed one: batches
    depend on (seed, epoch, step), and the generators of dropout, the running loss and the optimizer are in the
    checkpoint. Where the optimizer keeps a moving average (`use_ema`), the average is judged and kept.

    Args:
        task: compiled, optimizer built, with `reseed(seed)` for its dropout; its loss is called "loss".
        batches: `len()` steps an epoch, `epoch(number, start)`. feed: another way to read them than `feed_of`.
        validate: judges the task as it stands; more is better.
        checkpoint: of `training_variables(task)`.
        refresh: called after each epoch before `validate`, and after the best weights are put back: what depends on the
            weights (vectors of encoders that learn) is made anew.
        after_epoch: for whoever watches, such as a search that gives up on poor settings.

    Returns: the log, one row an epoch: epoch, every metric of the task, the validation figure, seconds.

    Raises: NonFiniteLossError, at most `CHECK_STEPS` and a call after the step it happened at, before it could be saved.
    """
    feed, steps, average = feed or feed_of(batches), len(batches), ExponentialMovingAverage(task)
    weights = getattr(task, "learned_variables", task.trainable_variables)
    log: list[dict[str, float]] = []
    best: dict[str, np.ndarray] = {}
    first, step, spent = 0, 0, 0.0
    if (restored := checkpoint.restore()) is not None:
        state, best = restored
        log, first, step, spent = state["log"], state["epoch"], state["step"], state["seconds"]
    for epoch in range(first, settings.epochs):
        if not settings.keep_last and early_stopping([row[settings.metric] for row in log], settings.patience):
            break
        begun = time.perf_counter() - spent
        if step == 0:
            task.reseed(settings.seed + epoch)

        def save(done: int, epoch: int = epoch, begun: float = begun) -> None:
            checkpoint.save({"epoch": epoch, "step": done, "log": log, "seconds": time.perf_counter() - begun})

        metrics = train_epoch(task, feed, epoch, step, steps, settings, progress, save)
        with average.in_place():
            if refresh:
                refresh()
            quality = validate()
            better = settings.keep_last or quality >= max((row[settings.metric] for row in log), default=-math.inf)
            if better:
                best = snapshot(weights)
        seconds = time.perf_counter() - begun
        log.append({"epoch": epoch, **metrics, settings.metric: quality, "seconds": seconds})
        checkpoint.save({"epoch": epoch + 1, "step": 0, "log": log, "seconds": 0.0}, best if better else None)
        step, spent = 0, 0.0
        if after_epoch:
            after_epoch(log)
    put_back(weights, best)
    if refresh:
        refresh()
    return log


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, where it trains, TensorFlow: initial weights without a seed of their own draw from these.

    `keras.utils.set_random_seed` would import TensorFlow on every backend.
    """
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


class ExponentialMovingAverage:
    """The moving average of the weights that an optimizer with `use_ema` keeps, put in their place for a while.

    `fit` would leave the average in the weights after every call, that is, after every epoch: training would go on
    from it. Here the weights stay what the optimizer made of them.
    """

    def __init__(self, task: keras.Model):
        optimizer = task.optimizer
        self.weights = task.trainable_variables
        self.on = getattr(optimizer, "inner_optimizer", optimizer).use_ema
        self._assign = type(optimizer).finalize_variable_values.__get__(optimizer)
        optimizer.finalize_variable_values = lambda variables: None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the weights are their average, if there is one; afterwards what they were."""
        if not self.on:
            yield
            return
        raw = snapshot(self.weights)
        self._assign(self.weights)
        try:
            yield
        finally:
            put_back(self.weights, raw)


def best_epoch(log: list[dict[str, float]], metric: str) -> dict[str, float]:
    """The row of the log whose weights `train_epochs` keeps: of several equally good ones the last.

    Example:
        >>> best_epoch([{"epoch": 0, "ndcg": 0.2}, {"epoch": 1, "ndcg": 0.2}, {"epoch": 2, "ndcg": 0.1}], "ndcg")
        {'epoch': 1, 'ndcg': 0.2}
    """
    return max(reversed(log), key=lambda row: row[metric])


def early_stopping(values: list[float], patience: int) -> bool:
    """Whether to stop: the last `patience` values all fell short of the best before them.

    Example:
        >>> early_stopping([0.1, 0.3, 0.2, 0.2], 2), early_stopping([0.1, 0.3, 0.2, 0.3], 2)
        (True, False)
    """
    return len(values) > patience and max(values[-patience:]) < max(values[:-patience])
