"""The served stage: two towers and the linear tower become one dot product, weighed on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.linear_config import LinearSection
from pipeline.linear_judge import LinearJudge
from pipeline.queries import embed_queries
from pipeline.served import Served
from towers.content_map import ContentMap, fit_content_map
from towers.ensemble import Ensemble
from towers.fusion import unit_length
from towers.linear import FILE, LinearTower, whiten
from towers.two_tower import load_two_tower

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Of the two towers in the sum. Never 0: a user without history is theirs alone."""


def build_served(
    dataset: Dataset,
    store: FeatureStore,
    trained: Path,
    linear: Path,
    out: Path,
    section: LinearSection,
    *,
    modalities: tuple[str, ...],
) -> dict[str, Any]:
    """Write the ensemble into `out`; nothing where there is no linear tower or it does not help on validation.

    Args:
        trained, linear: folders of the two stages before. modalities: content that this variant may see.

    Returns: for the manifest: shares tried with their NDCG@20.
    """
    if not (linear / FILE).is_file():
        return {"kind": "two_tower"}
    two_tower, tower_items = load_two_tower(trained), np.load(trained / "item_embeddings.npy")
    length = two_tower.config.history_length
    judge = LinearJudge(dataset, section.validation_users, section.seed, history_length=length)
    requests = judge.requests
    tower, content_map = with_new_items(whiten(LinearTower.load(linear)), dataset, store, modalities)
    queries = embed_queries(two_tower, tower_items, dataset.profile, requests.users, requests.history)
    scores = queries @ tower_items.T
    spread = max(float(scores[:, 1:].std(axis=1).mean()), 1e-9)
    linear_scores = np.asarray(unit_length(tower.queries(judge.taken))) @ tower.items.T
    figures = {
        share: judge.ndcg(share / spread * scores + (1.0 - share) * linear_scores) for share in SHARES
    }
    alone = judge.ndcg(scores)
    share = max(figures, key=lambda share: figures[share])
    info = {
        "two_towers_alone": alone,
        "linear_alone": judge.ndcg(linear_scores),
        "by_share": {str(share): figure for share, figure in figures.items()},
        "validation_users": len(requests.users),
    }
    if figures[share] <= alone:
        return {"kind": "two_tower", "valid_ndcg@20": alone, **info}
    ensemble = Ensemble(two_tower, tower_items, tower, content_map, (share / spread, 1.0 - share))
    ensemble.save_to(out)
    longest = dataset.events[dataset.positive].groupby("user").size().max()
    (out / "history_length.txt").write_text(str(max(int(longest), length)))
    np.save(out / "item_embeddings.npy", Served(two_tower, tower_items, ensemble, length).items)
    return {"kind": "ensemble", "share": share, "valid_ndcg@20": figures[share], "width": ensemble.items.shape[1], **info}


def with_new_items(
    tower: LinearTower, dataset: Dataset, store: FeatureStore, modalities: tuple[str, ...]
) -> tuple[LinearTower, ContentMap | None]:
    """Give items without a training event the vectors that their content suggests, as the item encoder would."""
    if not modalities:
        return tower, None
    present = np.asarray(store.present)[:, [MODALITIES.index(name) for name in modalities]]
    features = {name: np.asarray(store.table(name), np.float32) for name in modalities}
    warm = np.flatnonzero((dataset.counts > 0) & present.any(axis=1))
    targets = np.concatenate([tower.history, tower.items], axis=1)
    frames = {name: count for name, count in store.frames.items() if name in modalities}
    content_map = fit_content_map(features, present, targets, warm, frames=frames)
    cold = np.flatnonzero((dataset.counts == 0) & present.any(axis=1))
    history, items = tower.history.copy(), tower.items.copy()
    unknown = dataset.counts == 0
    history[unknown], items[unknown] = 0.0, 0.0
    if len(cold):
        mapped = np.asarray(content_map({name: table[cold] for name, table in features.items()}, present[cold]))
        history[cold], items[cold] = mapped[:, : tower.width], mapped[:, tower.width :]
    return LinearTower(history, items), content_map
