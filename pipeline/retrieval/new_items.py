"""New items in a linear tower: the places that their content gives them, and what users make of those."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.metrics.metrics import ndcg_at_k
from pipeline.metrics.segments import MINIMUM_USERS
from pipeline.retrieval.linear_judge import K, LinearJudge
from towers.content_map import ContentMap, fit_content_map
from towers.linear import LinearTower, whiten


def with_new_items(
    tower: LinearTower, unknown: np.ndarray, store: FeatureStore, modalities: tuple[str, ...]
) -> tuple[LinearTower, ContentMap | None]:
    """Give `unknown` items (bool [N + 1]) the vectors that their content suggests, as the item encoder would."""
    if not modalities:
        return tower, None
    present = store.present_of(modalities)
    tables = {name: store.table(name) for name in modalities}
    warm = np.flatnonzero(~unknown & present.any(axis=1))
    targets = np.concatenate([tower.history, tower.items], axis=1)
    frames = {name: count for name, count in store.frames.items() if name in modalities}
    content_map = fit_content_map(tables, present, targets, warm, frames=frames)
    cold = np.flatnonzero(unknown & present.any(axis=1))
    history, items = tower.history.copy(), tower.items.copy()
    history[unknown], items[unknown] = 0.0, 0.0
    if len(cold):
        features = {name: np.asarray(table[cold], np.float32) for name, table in tables.items()}
        mapped = keras.ops.convert_to_numpy(content_map(features, present[cold]))
        history[cold], items[cold] = mapped[:, : tower.width], mapped[:, tower.width :]
    return LinearTower(history, items), content_map


def judge_new_items(
    judge: LinearJudge, dataset: Dataset, store: FeatureStore, modalities: tuple[str, ...]
) -> Callable[[LinearTower], np.ndarray] | None:
    """What tells of a tower how well its new items would be found, each among all new ones, at the places it gives them.

    Among themselves, since how far new items are stretched against known ones is chosen later, by what is served.

    Returns: tower -> NDCG@20 [Q], NaN for users who took no new item; None where fewer than `MINIMUM_USERS` took one.
    """
    unknown = dataset.counts == 0
    fresh = judge.requests.relevant.restrict(unknown)
    if not modalities or np.count_nonzero(fresh.counts) < MINIMUM_USERS:
        return None

    def values(tower: LinearTower) -> np.ndarray:
        placed, _ = with_new_items(whiten(tower), unknown, store, modalities)
        return ndcg_at_k(judge.rank(np.where(unknown, judge.scores(placed), -np.inf)), fresh, K)

    return values
