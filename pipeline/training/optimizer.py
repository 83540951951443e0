"""What moves the towers' weights: AdamW or Adagrad under warm-up and cosine decay, and the precision that layers compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from pipeline.settings.config import RetrievalConfig
from pipeline.stage import StageError
from pipeline.training.fused_optimizers import FusedAdagrad, FusedAdamW

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
"""Keras's policy for each `retrieval.precision`: weights stay in float32, layers compute in the other."""


def make_optimizer(config: RetrievalConfig, steps: int) -> keras.optimizers.Optimizer:
    """AdamW or Adagrad for `steps` batches, with what the settings add to it.

    Formula of the rate: linear from 0 to `learning_rate` over the warm-up, then
    `learning_rate (f + (1 - f) (1 + cos(pi t / steps)) / 2)` with f = `final_rate` and t the steps since. Papers:
    Loshchilov and Hutter, *SGDR*, ICLR 2017, and *Decoupled Weight Decay Regularization*, ICLR 2019; the average of
    weights: Polyak and Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992.

    Args:
        config: which, rate, decay, warm-up, accumulation, average, precision. In float16 the loss is scaled up before the
            gradients and they are scaled down after, by a factor that follows what overflows.
        steps: batches in all, which the schedule counts whether or not their gradients are accumulated.

    Raises:
        StageError: gradients are accumulated over more steps than there are.

    Example:
        >>> optimizer = make_optimizer(RetrievalConfig(learning_rate=0.1, warmup_steps=10), 1000)
        >>> schedule = optimizer._learning_rate
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 1010)]
        [0.0, 0.05, 0.1, 0.002]
    """
    check_accumulation("retrieval.accumulation", config.accumulation, steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        alpha=config.final_rate,
        warmup_target=config.learning_rate,
        warmup_steps=min(config.warmup_steps, steps // 10),
    )
    # Keras averages after every batch; under accumulation the weights move once in `accumulation` of them.
    decay = config.average_decay ** (1 / config.accumulation)
    kind = FusedAdagrad if config.optimizer == "adagrad" else FusedAdamW
    optimizer = kind(
        schedule,
        weight_decay=config.weight_decay,
        global_clipnorm=1.0,
        gradient_accumulation_steps=config.accumulation if config.accumulation > 1 else None,
        use_ema=config.average_decay > 0,
        ema_momentum=decay if config.average_decay else 0.99,
    )
    return keras.optimizers.LossScaleOptimizer(optimizer) if config.precision == "float16" else optimizer


def check_accumulation(name: str, accumulation: int, steps: int) -> None:
    """Raises: StageError: gradients are averaged over so many steps that the weights would never move."""
    if accumulation > steps:
        raise StageError(
            f"{name}: the weights move once in {accumulation} batches, and there are {steps} in all; accumulate over fewer, or "
            "train for more epochs or on smaller batches"
        )


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers made within compute in `precision`; those made before and after do not.

    Example:
        >>> with computing_in("bfloat16"):
        ...     layer = keras.layers.Dense(2)
        >>> layer.compute_dtype, layer.variable_dtype, keras.layers.Dense(2).compute_dtype
        ('bfloat16', 'float32', 'float32')
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
