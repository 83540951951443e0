"""Ranking between its neighbours: the trained towers and the built index on one side, the evaluation on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.config import Config
from pipeline.queries import embed_queries
from pipeline.ranking_lists import QueryFunction, SearchFunction
from pipeline.train_retrieval import Progress
from ranking.config import RankingConfig
from serving.index_build import load_index
from towers.two_tower import load_two_tower


class RetrievalSide:
    """The trained towers and the built index of a run, as the plain functions that ranking asks.

    Args:
        dataset: the ingested data. run: the run folder. kind: which index answers ("scann" or "exact").
    """

    def __init__(self, dataset: Dataset, run: Path, kind: str):
        folder = run / "retrieval" / "full"
        self.two_tower = load_two_tower(folder)
        self.item_embeddings = np.load(folder / "item_embeddings.npy")
        self.history_length = self.two_tower.config.history_length
        self._profile = dataset.profile
        self._index = load_index(run / "index", kind)

    @property
    def query(self) -> QueryFunction:
        return lambda users, history: embed_queries(
            self.two_tower, self.item_embeddings, self._profile, users, history[:, : self.history_length]
        )

    @property
    def search(self) -> SearchFunction:
        def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows, scores = self._index.search(queries, np.int32(k), excluded)
            return np.asarray(rows), np.asarray(scores)

        return search


def ranking_config(config: Config) -> RankingConfig:
    """The ranking room's own settings."""
    return RankingConfig(**config.ranking.model_dump())


def train_ranking_stage(
    dataset: Dataset, store: FeatureStore, run: Path, out: Path, checkpoints: Path, config: Config, progress: Progress
) -> dict[str, Any]:
    """Train the ranker on what the built index proposes; see `pipeline.train_ranking`."""
    from pipeline.train_ranking import train_ranking

    side = RetrievalSide(dataset, run, config.index.kind)
    return train_ranking(
        dataset,
        store,
        side.item_embeddings,
        side.query,
        side.search,
        out,
        checkpoints,
        ranking_config(config),
        query_history=side.history_length,
        progress=progress,
    )
