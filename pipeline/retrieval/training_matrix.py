"""Users × items of the training split, as the linear towers count it."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.burst_weights import burst_weights
from data.dataset import Dataset
from data.schema import TRAIN
from pipeline.metrics.examples import interactions
from pipeline.retrieval.baselines import to_sparse


def training_matrix(dataset: Dataset, burst_bound: float = 0.0) -> Any:
    """Sparse float32 [user rows, N + 1]: ones, or with a bound the weights of `data.burst_weights`.

    A pair of several events counts by its heaviest. Without timestamps there are no bursts, and the bound does nothing.
    """
    taken = to_sparse(interactions(dataset, ("train",)), dataset.schema.item_rows)
    if not burst_bound or not dataset.schema.has_timestamps:
        return taken
    events = dataset.events[dataset.positive & (dataset.events["split"].to_numpy() == TRAIN)]
    users, items = (events[name].to_numpy(np.int64) for name in ("user", "item"))
    weights = burst_weights(items, events["timestamp"].to_numpy(), burst_bound)
    pairs, place = np.unique(users * dataset.schema.item_rows + items, return_inverse=True)
    heaviest = np.zeros(len(pairs), np.float32)
    np.maximum.at(heaviest, place, weights.astype(np.float32))
    # Both are ordered by user and then by item.
    taken.data[:] = heaviest
    return taken
