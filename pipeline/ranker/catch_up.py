"""A ranker catches up with the days that judged it: the newest that are known, and the nearest to those it will serve."""

from __future__ import annotations

from pipeline.ranker.setup import train_step
from pipeline.ranker.training_sources import TrainingSource, epoch_batches
from pipeline.training.fused_optimizers import FusedAdamW
from ranking.config import RankingConfig
from ranking.model import Ranker


def catch_up(ranker: Ranker, source: TrainingSource, config: RankingConfig, unique_items: int) -> None:
    """Goes on training, once everything is chosen, for `catch_up_epochs` over all requests, held-out ones included.

    The steps are small (`catch_up_rate` of the rate that was trained at), so that the ranker stays the one that was
    calibrated and weighed; a rate of 0 or no epochs leave it as it is. Batches depend on (seed, epoch), epochs are counted on
    from those of the training: an interrupted run that starts again from the chosen weights ends with the same ones.

    Args:
        ranker: with the chosen weights. source: all requests of the split. unique_items: see `batch_inputs`.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    if not config.catch_up_epochs or not config.catch_up_rate:
        return
    rate = config.learning_rate * config.catch_up_rate
    optimizer = FusedAdamW(rate, weight_decay=config.weight_decay, global_clipnorm=1.0)
    ranker.compile(optimizer=optimizer, jit_compile=config.jit_compile)
    optimizer.build(ranker.trainable_variables)  # or the first step is traced twice
    for epoch in range(config.epochs, config.epochs + config.catch_up_epochs):
        ranker.reseed(epoch)
        for inputs, labels in epoch_batches([source], ranker, config, unique_items, epoch):
            train_step(
                ranker,
                inputs,
                labels,
                where="while catching up with the held-out days",
                advice="Lower ranking.catch_up_rate.",
            )
