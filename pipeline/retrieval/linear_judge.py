"""Validation of linear towers: whole histories in, NDCG@20 over the full catalogue out."""

from __future__ import annotations

import numpy as np

from data.dataset import Dataset
from pipeline.metrics.examples import interactions, make_requests
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import top_k
from pipeline.retrieval.baselines import to_sparse
from pipeline.retrieval.training_matrix import training_matrix
from towers.linear import LinearTower

SCORES_AT_MOST = 40_000_000
"""Users × items that are judged: several such blocks of floats stand in memory at once."""
K = 20


class LinearJudge:
    """Users of the validation split, what they had chosen before, and what they chose then.

    Args:
        dataset: the ingested data. users: how many at most, by a seeded draw. seed: of the draw.
        history_length: L of the requests, for towers that read recent items.
        burst_bound: of the training matrix, see `training_matrix`; 0 = every pair counts 1.

    Attributes:
        train: sparse [user rows, N + 1], the training histories as they are counted. taken: sparse [Q, N + 1] of ones,
            those of the users judged.
    """

    def __init__(self, dataset: Dataset, users: int, seed: int, history_length: int = 1, burst_bound: float = 0.0):
        requests = make_requests(
            dataset, "valid", known_splits=("train",), history_length=history_length, seed=seed
        )
        users = min(users, max(SCORES_AT_MOST // dataset.schema.item_rows, 1))
        if len(requests.users) > users:
            chosen = np.random.default_rng(seed).choice(len(requests.users), users, replace=False)
            requests = requests.take(np.sort(chosen))
        self.requests = requests
        self.train = training_matrix(dataset, burst_bound)
        known = interactions(dataset, ("train",)).select(requests.users)
        self.taken = to_sparse(known, dataset.schema.item_rows)

    def scores(self, tower: LinearTower) -> np.ndarray:
        """float32 [Q, N + 1]."""
        return tower.queries(self.taken) @ tower.items.T

    def ndcg(self, scores: np.ndarray) -> float:
        """NDCG@20 of scores [Q, N + 1], items seen in training left out; the scores are not written into."""
        return mean_over_users(self.values(scores))

    def values(self, scores: np.ndarray) -> np.ndarray:
        """The same of every user. [Q]"""
        return ndcg_at_k(self.rank(scores), self.requests.relevant, K)

    def rank(self, scores: np.ndarray) -> np.ndarray:
        """The first 20 rows of every user. [Q, 20]"""
        return top_k(lambda block: scores[block].copy(), np.arange(len(scores)), self.requests.seen, K)[0]
