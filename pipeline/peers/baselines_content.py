"""Models that know what items are made of and not who took them: the floor for items that nobody has taken yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from data.features import FeatureStore
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.top_k import select_top_k
from pipeline.retrieval.baselines import to_sparse


def join_content(store: FeatureStore, weights: Mapping[str, float]) -> NDArray[np.float32]:
    """One vector of unit length an item, float32 [N + 1, ΣF_m]; the cosine of two is a weighted mean of their modalities'.

    Each modality is centred over the items that have it (vectors of one encoder share a large common part), brought to
    unit length and multiplied by the root of its weight; an item without a modality leaves its place empty.

    Args:
        weights: {modality: >= 0}; modalities without a weight are left out.

    Raises:
        ValueError: no weight is positive, or a modality is not in the store.
    """
    chosen = {name: weight for name, weight in weights.items() if weight > 0}
    if not chosen or set(chosen) - set(store.modalities):
        raise ValueError(
            f"weights: must name some of {store.modalities} with a weight > 0, received {dict(weights)}; "
            "is there content in the dataset folder?"
        )
    parts = []
    for name, weight in chosen.items():
        present = store.present_of(name)
        vectors = np.asarray(store.pooled(name), np.float32)
        vectors = np.where(present[:, None], vectors - vectors[present].mean(axis=0), 0.0)
        parts.append(np.sqrt(weight) * _unit(vectors))
    return _unit(np.concatenate(parts, axis=1))


class ContentKNN:
    """Item-kNN whose similarity is that of content: it ranks items nobody has taken yet.

    score(u, j) = Σ_{i in history, i in top(j)} max(0, cos(v_i, v_j)), top(j) the `neighbours` items of the training sets
    that are most like j; with all of them, this is the cosine of j with the user's mean content, up to the user's scale.

    Args:
        vectors: float [N + 1, F], unit length, zero where an item has no content. neighbours: kept per item.

    Example: 3 is new and looks like 1.
        >>> vectors = np.array([[0, 0], [1, 0], [0, 1], [0.8, 0.6]])
        >>> model = ContentKNN(vectors, neighbours=1).fit(Interactions.from_lists([[1], [2]]), items=3)
        >>> model.score(Interactions.from_lists([[1]])).astype(float).round(2).tolist()
        [[0.0, 0.0, 0.0, 0.8]]
    """

    def __init__(self, vectors: ArrayLike, *, neighbours: int = 100) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours: must be >= 1, received {neighbours}; try 100")
        self.vectors, self.neighbours = np.asarray(vectors, np.float32), neighbours

    def fit(self, train: Interactions, items: int, *, block: int = 1024) -> Self:
        near, cosines = nearest_taken(self.vectors, train, items, self.neighbours, block=block)
        target, place = np.nonzero(cosines > 0)
        shape = (items + 1, items + 1)
        similar = scipy.sparse.csr_array((cosines[target, place], (near[target, place], target)), shape=shape)
        self.similarity = similar
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        return (to_sparse(histories, self.similarity.shape[0]) @ self.similarity).toarray()


class ContentPopularity:
    """Popularity for items without a count: the mean count of the `neighbours` taken items that are most like them.

    Popularity itself cannot order items nobody has taken: they all have count 0, and their true counts lie in the test
    split, which a recommender does not know. This is what "popular" can mean among them.

    Example: 3 looks like 1, which three users took; 4 looks like 2, which one did.
        >>> vectors = np.array([[0, 0], [1, 0], [0, 1], [0.8, 0.6], [0.6, 0.8]])
        >>> model = ContentPopularity(vectors, neighbours=1).fit(Interactions.from_lists([[1, 2], [1], [1]]), items=4)
        >>> model.score(Interactions.empty(1)).tolist()
        [[0.0, 1.0, 3.0, 3.0, 1.0]]
    """

    def __init__(self, vectors: ArrayLike, *, neighbours: int = 20) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours: must be >= 1, received {neighbours}; try 20")
        self.vectors, self.neighbours = np.asarray(vectors, np.float32), neighbours

    def fit(self, train: Interactions, items: int) -> Self:
        counts = np.bincount(train.rows, minlength=items + 1).astype(np.float32)
        near, cosines = nearest_taken(self.vectors, train, items, self.neighbours)
        found = np.isfinite(cosines)
        total = np.where(found, counts[near], 0.0).sum(axis=1)
        self.expected = np.divide(total, found.sum(axis=1), out=np.zeros(items + 1, np.float32), where=found.any(axis=1))
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        return np.tile(self.expected, (len(histories), 1))


class RandomOrder:
    """Every user gets the items in an order of their own, by chance: what no knowledge at all reaches."""

    def __init__(self, *, seed: int = 7) -> None:
        self.seed = seed

    def fit(self, train: Interactions, items: int) -> Self:
        self.width = items + 1
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        rows = np.arange(len(histories)) if users is None else np.asarray(users)
        # From (seed, user) alone, so that the blocks' order and size change nothing.
        return np.stack([np.random.default_rng([self.seed, int(row)]).random(self.width, np.float32) for row in rows])


def nearest_taken(
    vectors: NDArray[np.float32], train: Interactions, items: int, neighbours: int, *, block: int = 1024
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The items of the training sets whose content is most like each item's, itself aside. Rows and cosines [N + 1, n]"""
    if len(vectors) != items + 1:
        raise ValueError(f"vectors: must have N + 1 = {items + 1} rows, received {len(vectors)}; one an item row")
    taken = np.bincount(train.rows, minlength=items + 1) > 0
    filled = np.any(vectors != 0, axis=1)
    candidates = taken & filled
    neighbours = min(neighbours, items)
    near, cosines = np.zeros((items + 1, neighbours), np.int32), np.full((items + 1, neighbours), -np.inf, np.float32)
    for start in range(0, items + 1, block):
        rows = np.arange(start, min(start + block, items + 1))
        similarity = vectors[rows] @ vectors.T
        similarity[:, ~candidates] = -np.inf
        similarity[~filled[rows]] = -np.inf
        similarity[np.arange(len(rows)), rows] = -np.inf
        near[rows], cosines[rows] = select_top_k(similarity, neighbours)
    return near, cosines


def _unit(vectors: NDArray) -> NDArray[np.float32]:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
