"""Defences of content: towers trained against adversarial embeddings, and content maps that see leading components alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.retrieval.served import Served
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.retrieval import RetrievalConfig
from pipeline.training.epochs import Progress
from towers.content_map import ContentMap
from towers.ensemble import Ensemble
from towers.linear import LinearTower
from towers.projection import principal_whitening
from towers.two_tower import load_two_tower


def denoised(served: Served, dataset: Dataset, store: FeatureStore, rank: int) -> Served:
    """What is served, with new items placed by the leading components of their content alone.

    Formula: `W' = P P' W`, P the leading principal directions of the training items' vectors: what lies outside them,
    where an attack costs least, moves nothing. Bhagoji et al. (2018), *Enhancing robustness of machine learning systems
    via data transformations*. The towers' own projections see leading components already (`content_rank`).

    Args:
        rank: components a modality. Returns: the same where content places nothing.
    """
    ensemble = served.ensemble
    if ensemble is None or ensemble.content_map is None:
        return served
    old = ensemble.content_map
    layer = ContentMap(old.widths, old.outputs, old.frames)
    layer.set_weights(old.get_weights())
    names = tuple(old.widths)
    present = store.present_of(names)
    for place, name in enumerate(names):
        warm = np.flatnonzero((dataset.counts > 0) & present[:, place])
        vectors = np.asarray(store.pooled(name)[warm], np.float32)
        _, directions = principal_whitening(vectors, min(rank, vectors.shape[1]))
        basis = directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-9)
        kernel = ops.convert_to_numpy(layer.kernels[place])
        layer.kernels[place].assign(basis @ (basis.T @ kernel))
    cold = np.flatnonzero((dataset.counts == 0) & present.any(axis=1))
    history, items = ensemble.linear.history.copy(), ensemble.linear.items.copy()
    if len(cold):
        mapped = ops.convert_to_numpy(layer({name: store.gather(name, cold) for name in names}, present[cold]))
        history[cold], items[cold] = mapped[:, : ensemble.linear.width], mapped[:, ensemble.linear.width :]
    again = Ensemble(ensemble.two_tower, ensemble.tower_items, LinearTower(history, items), layer, ensemble.weights)
    return dataclasses.replace(served, ensemble=again)


def adversarially_trained(
    served: Served,
    dataset: Dataset,
    store: FeatureStore,
    folder: Path,
    config: RetrievalConfig,
    weight: float,
    progress: Progress,
) -> tuple[Served, dict[str, Any]]:
    """What is served, with its two towers trained again as they were but for `retrieval.side.adversarial`.

    Args:
        folder: for the towers and their checkpoints. Returns: also the training's figures.
    """
    side = config.side.model_copy(update={"adversarial": weight})
    (folder / "towers").mkdir(parents=True, exist_ok=True)
    told = train_retrieval(
        dataset, store, folder / "towers", folder / "checkpoints", config.model_copy(update={"side": side}),
        modalities=tuple(served.two_tower.schema.modalities), progress=progress,
    )  # fmt: skip
    return with_towers(served, folder / "towers"), {key: told[key] for key in ("epochs", "valid_ndcg@20")}


def with_towers(served: Served, folder: Path) -> Served:
    """What is served, with other two towers in the same mixture."""
    two_tower, items = load_two_tower(folder), np.load(folder / "item_embeddings.npy")
    ensemble = served.ensemble
    if ensemble is not None:
        ensemble = Ensemble(two_tower, items, ensemble.linear, ensemble.content_map, ensemble.weights)
    return Served(two_tower, items, ensemble, served.history_length)
