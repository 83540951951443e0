"""The steps of one epoch: several in one call of TensorFlow, and between two calls progress, checks and checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from pipeline.training.checkpoint import array_of
from pipeline.training.feed import Feed

Progress = Callable[[str, int, int], None]
"""(what, done, total): called as long work goes on."""

CHECK_STEPS = 50
"""Steps between two looks at the loss; a look waits for the device, and a loss that is not finite stays so."""
PROGRESS_SECONDS = 0.1
EVENTS_A_CALL = 65_536
"""Events that one call of the compiled step trains on, so that Python's part, a millisecond a call, is small beside it."""
MOST_STEPS_A_CALL = 64
"""Steps of one call at most, however small the batches are."""
FEWEST_STEPS = 128
"""A training of fewer steps takes them one by one."""


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message says where and what usually helps."""


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long to train and how often to save.

    Attributes:
        epochs: at most so many.
        patience: stop after this many epochs without a better validation figure.
        seed: the dropout of epoch e draws from seed + e, so runs of other seeds should lie further apart than epochs.
        checkpoint_steps, checkpoint_seconds: save inside an epoch too, after so many steps or seconds; 0 = never.
        steps_a_call: steps that TensorFlow takes between two looks of Python's, see `steps_a_call`; on JAX always one. A
            divisor of `checkpoint_steps` is taken, so that it is saved where it says.
        keep_last: run all epochs and keep the last one's weights, whatever the validation figure says.
        metric: name of the validation figure in the log.
        name: of the training, for messages. advice: what to do when the loss is not finite.
    """

    epochs: int
    patience: int
    seed: int
    checkpoint_steps: int = 0
    checkpoint_seconds: float = 0.0
    steps_a_call: int = 1
    keep_last: bool = False
    metric: str = "valid_ndcg@20"
    name: str = "retrieval"
    advice: str = "Lower the learning rate"


def train_epoch(
    task: keras.Model,
    feed: Feed,
    epoch: int,
    start: int,
    steps: int,
    settings: LoopSettings,
    progress: Progress,
    save: Callable[[int], None],
) -> dict[str, float]:
    """The steps of one epoch from `start` on.

    Args:
        save: steps done -> None; called where the settings say that it is time.

    Returns: every metric of the task, over the whole epoch.
    """
    if keras.backend.backend() == "tensorflow":
        several = math.gcd(settings.steps_a_call, settings.checkpoint_steps)
        # A loop around the step is traced too, which takes as long as Python's part of hundreds of single ones.
        task.steps_per_execution = several if settings.epochs * steps >= FEWEST_STEPS else 1
    watch = StepWatch(task, epoch, start, steps, settings, progress, save)
    task.fit(feed(epoch, start), steps_per_epoch=steps - start, epochs=1, shuffle=False, verbose=0, callbacks=watch)
    return watch.metrics


def steps_a_call(batch_size: int) -> int:
    """So many steps that a call of the compiled step has `EVENTS_A_CALL` events: a power of two, `MOST_STEPS_A_CALL` at most.

    Example:
        >>> steps_a_call(1024), steps_a_call(4096), steps_a_call(65_536), steps_a_call(2)
        (64, 16, 1, 64)
    """
    steps = min(max(EVENTS_A_CALL // batch_size, 1), MOST_STEPS_A_CALL)
    return 2 ** (steps.bit_length() - 1)


class StepWatch(keras.callbacks.CallbackList):
    """What happens between two calls of one epoch's steps: next to nothing, and now and then progress, a check, a
    checkpoint.

    A list of callbacks and not one of them, because Keras's own list turns every metric into a Python number after
    every step and so makes the device wait for Python, and Python for the device.
    """

    def __init__(
        self,
        task: keras.Model,
        epoch: int,
        start: int,
        steps: int,
        settings: LoopSettings,
        progress: Progress,
        save: Callable[[int], None],
    ):
        super().__init__([], add_history=True, model=task)
        self.task, self.epoch, self.start, self.steps = task, epoch, start, steps
        self.settings, self.progress, self.save = settings, progress, save
        self.total = settings.epochs * steps
        self.metrics: dict[str, float] = {}
        self._kept = [np.array(array_of(variable)) for variable in task.metrics_variables]
        self._done, self._saved, self._shown = start, *[time.monotonic()] * 2

    def on_epoch_begin(self, epoch, logs=None):
        if self.start:  # `fit` has just set the running loss to zero; it goes on where it was saved
            for variable, value in zip(self.task.metrics_variables, self._kept, strict=True):
                variable.assign(value)

    def on_train_batch_begin(self, batch, logs=None):
        return

    def on_train_batch_end(self, batch, logs=None):
        # `batch` is the number of the call's last step, or what it would be had the epoch not ended before.
        before, done, now = self._done, min(self.start + batch + 1, self.steps), time.monotonic()
        settings, self._done = self.settings, done
        due = done < self.steps and (
            passed(settings.checkpoint_steps, before, done)
            or (settings.checkpoint_seconds and now - self._saved >= settings.checkpoint_seconds)
        )
        if due or passed(CHECK_STEPS, before, done):
            self._check(logs["loss"], done)
        if due:
            if keras.backend.backend() == "jax":
                self.task.jax_state_sync()
            self.save(done)
            self._saved = time.monotonic()
        if now - self._shown >= PROGRESS_SECONDS or done == self.steps:
            self._shown = now
            self.progress("training", self.epoch * self.steps + done, self.total)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.metrics = {name: float(value) for name, value in logs.items()}
        self._check(self.metrics["loss"], self.steps)

    def _check(self, loss: Any, done: int) -> None:
        if not math.isfinite(float(loss)):
            raise NonFiniteLossError(
                f"{self.settings.name}: the loss is {float(loss)} in epoch {self.epoch}, by step {done}. "
                f"{self.settings.advice}."
            )


def passed(every: int, before: int, done: int) -> bool:
    """Whether a multiple of `every` lies after `before` and not after `done`; never of 0.

    Example:
        >>> passed(50, 48, 50), passed(50, 50, 56), passed(50, 96, 104), passed(0, 1, 2)
        (True, False, True, False)
    """
    return bool(every) and done // every > before // every
