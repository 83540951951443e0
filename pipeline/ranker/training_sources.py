"""Where a ranker's lists come from: the validation split, and where an earlier run allows it, days before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from data.dataset import Dataset
from pipeline.ranker.earlier_fold import EarlierFold
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.setup import batches
from ranking.config import RankingConfig
from ranking.lists import RankingLists
from ranking.model import Ranker
from ranking.tables import ITEM_NUMBERS, popularity_numbers


@dataclasses.dataclass(frozen=True)
class TrainingSource:
    """Requests to learn from, with what a ranker may read while it does.

    Attributes:
        dataset: in whose splits the requests lie. fold: the requests. item_embeddings: [N + 1, D] of the model that
            answered them.
        numbers: [N + 1, 5], the ranker's item columns. present: [N + 1, M], the modalities it may see.
    """

    dataset: Dataset
    fold: RankingFold
    item_embeddings: np.ndarray
    numbers: np.ndarray
    present: np.ndarray

    def lists(self, config: RankingConfig, epoch: int) -> RankingLists:
        """One epoch's draw, which depends on (seed, epoch) alone."""
        return self.fold.lists(self.dataset, self.item_embeddings, config, [config.seed, epoch])

    def enter(self, ranker: Ranker) -> None:
        """Show the ranker what is this source's."""
        ranker.network.features.side.tables["numbers"].assign(self.numbers)
        table = ranker.content.present.table
        table.assign(self.present.astype(table.dtype))


def own_source(dataset: Dataset, fold: RankingFold, item_embeddings: np.ndarray, ranker: Ranker) -> TrainingSource:
    """The source whose tables the ranker was built with."""
    numbers, present = (
        keras.ops.convert_to_numpy(table)
        for table in (ranker.network.features.side.tables["numbers"], ranker.content.present.table)
    )
    return TrainingSource(dataset, fold, item_embeddings, numbers, present)


def earlier_source(earlier: EarlierFold, own: TrainingSource, ranker: Ranker, config: RankingConfig) -> TrainingSource:
    """Lists of an earlier run's index beside the ranker's own.

    Static popularity is that of the earlier run's training events. The retrieval embedding as a modality is hidden: the
    present one has seen these labels, and the earlier run's lies in another space. Scores are moved to the mean and
    spread of the ranker's own, so that a high one means the same.
    """
    numbers = own.numbers.copy()
    columns = [ITEM_NUMBERS.index(name) for name in ("log popularity", "never in training")]
    numbers[:, columns] = popularity_numbers(earlier.dataset.counts)
    present = own.present.copy()
    if "behaviour" in ranker.spec.modalities:
        present[:, list(ranker.spec.modalities).index("behaviour")] = 0
    fold, embeddings = earlier.fold, earlier.item_embeddings
    lists = fold.lists(earlier.dataset, embeddings, config, [config.seed, 0])
    scores = lists.retrieval_scores[lists.mask]
    scale = ranker.spec.score_scale / (float(scores.std()) + 1e-6)
    shift = ranker.spec.score_center - scale * float(scores.mean())
    fold, embeddings = rescaled(fold, embeddings, scale, shift)
    return TrainingSource(earlier.dataset, fold, embeddings, numbers, present)


def rescaled(
    fold: RankingFold, item_embeddings: np.ndarray, scale: float, shift: float
) -> tuple[RankingFold, np.ndarray]:
    """The same fold and embeddings with every score `scale s + shift`, ranks unchanged.

    A constant more in every item, `scale q . e + shift = [scale q ; shift] . [e ; 1]`, keeps scores dot products.
    """
    queries = np.pad(scale * fold.queries, ((0, 0), (0, 1)), constant_values=shift).astype(np.float32)
    items = np.pad(item_embeddings, ((0, 0), (0, 1)), constant_values=1.0).astype(np.float32)
    items[0] = 0
    scores = np.where(fold.rows > 0, scale * fold.scores.astype(np.float64) + shift, np.finfo(np.float32).min)
    return dataclasses.replace(fold, queries=queries, scores=scores.astype(np.float32)), items


def epoch_batches(
    sources: list[TrainingSource], ranker: Ranker, config: RankingConfig, unique_items: int, epoch: int
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Inputs and labels of one epoch, source by source; each is entered before its first batch."""
    for source in sources:
        if len(sources) > 1:
            source.enter(ranker)
        lists = source.lists(config, epoch)
        order = np.random.default_rng([config.seed, epoch]).permutation(len(lists))
        for inputs, labels, _ in batches(lists, config, unique_items, order):
            yield inputs, labels
