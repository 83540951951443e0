"""The models every learned one is measured against: popularity, item-kNN and EASE, from interactions alone.

All have one contract: `fit(train, items)` learns from item sets, `score(histories)` gives every item a score for a block
of users known only by their item sets. None masks anything; `top_k` does that for every model alike. More models behind
the contract: `pipeline.peers.baselines_factors`, `pipeline.peers.baselines_content`.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.top_k import ScoreBlock, select_top_k
from towers.closed_form import ClosedFormSettings, co_occurrence, ease

MOST_SIMILARITIES = 2**26
"""Similarities that are in memory at a time, several arrays of 4 bytes each."""


class Baseline(Protocol):
    """What `top_k` and the evaluation need of a model that reads item sets."""

    def fit(self, train: Interactions, items: int) -> Self:
        """Learns from the training sets of all user rows; `items` is N, without row 0."""
        ...

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        """float32 [B, N + 1]: a score for every item row, given B users' item sets; a fresh array.

        `users`: int [B], their rows in the training sets, for models that learn a vector a user; others look at the sets
        alone.
        """
        ...


def score_users(model: Baseline, histories: Interactions, users: ArrayLike) -> ScoreBlock:
    """The `score_block` of `top_k` for a fitted baseline.

    Args:
        model: a fitted baseline.
        histories: item sets of all user rows, usually the training sets.
        users: int [B], the user rows that will be ranked.

    Example:
        >>> train = Interactions.from_lists([[], [1, 2], [2]])
        >>> score_users(Popularity().fit(train, items=3), train, users=[2])(slice(0, 1)).tolist()
        [[0.0, 1.0, 2.0, 0.0]]
    """
    rows = np.asarray(users, dtype=np.int64)
    return lambda block: model.score(histories.select(rows[block]), rows[block])


class Popularity:
    """Every user gets the same list: items by the number of users who took them in training."""

    def fit(self, train: Interactions, items: int) -> Self:
        self.counts = np.bincount(train.rows, minlength=items + 1).astype(np.float32)
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        return np.tile(self.counts, (len(histories), 1))


class ItemKNN:
    """Neighbourhood model: an item scores by its similarity to the items of the user's set.

    s_ij = n_ij / (sqrt(n_i n_j) + shrinkage), n_ij users in common; score(u, j) = Σ_{i in history, i in top(j)} s_ij,
    where top(j) holds the `neighbours` items most similar to j. Shrinkage damps similarities that rest on few users.
    Sarwar et al. (2001), https://doi.org/10.1145/371920.372071.

    Args:
        neighbours: similar items kept per item.
        shrinkage: >= 0, added to the cosine's denominator; 0 to 50 for dense sets, 200 to 1,000 for very sparse ones.

    Example: 1 and 2 were always taken together, so a user with 1 is offered 2.
        >>> train = Interactions.from_lists([[1, 2], [1, 2], [3]])
        >>> model = ItemKNN(neighbours=1, shrinkage=0.0).fit(train, items=3)
        >>> model.score(Interactions.from_lists([[1]])).round(3).tolist()
        [[0.0, 0.0, 1.0, 0.0]]
    """

    def __init__(self, *, neighbours: int = 100, shrinkage: float = 50.0) -> None:
        if neighbours < 1 or shrinkage < 0:
            raise ValueError(
                f"neighbours, shrinkage: must be >= 1 and >= 0, received {neighbours} and {shrinkage}; try 100 and 50"
            )
        self.neighbours, self.shrinkage = neighbours, shrinkage

    def fit(self, train: Interactions, items: int, *, block: int | None = None) -> Self:
        """Similarities are computed for `block` items at a time, [block, N + 1] floats of memory: up to 1,024, and in large
        catalogues so many as have `MOST_SIMILARITIES`."""
        block = block or max(1, min(1024, MOST_SIMILARITIES // (items + 1)))
        taken = to_sparse(train, items + 1)
        by_item = taken.T.tocsr()
        norm = np.sqrt(np.diff(by_item.indptr)).astype(np.float32)
        parts = []
        for start in range(0, items + 1, block):
            stop = min(start + block, items + 1)
            similarity = (by_item[start:stop] @ taken).toarray()
            similarity /= np.maximum(norm[start:stop, None] * norm[None, :] + self.shrinkage, 1e-9)
            similarity[np.arange(stop - start), np.arange(start, stop)] = 0.0
            similarity[similarity <= 0] = -np.inf  # never together: not a neighbour, whatever `neighbours` is
            rows, values = select_top_k(similarity, min(self.neighbours, items + 1))
            target, place = np.nonzero(np.isfinite(values))
            shape = (stop - start, items + 1)
            parts.append(scipy.sparse.csr_array((values[target, place], (target, rows[target, place])), shape=shape))
        # [history item, target]: a user's scores are then one sparse product.
        self.similarity = scipy.sparse.vstack(parts).T.tocsr()
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        return (to_sparse(histories, self.similarity.shape[0]) @ self.similarity).toarray()


class EASE:
    """Embarrassingly shallow autoencoder: the best linear item-to-item model, in closed form.

    B = −P / diag(P) with P = (XᵀX + λI)⁻¹ and diag(B) = 0; scores = X B. Steck (2019), https://arxiv.org/abs/1905.03375.
    One dense N × N inverse in float64: 1 s at 3,700 items, minutes and gigabytes at 20,000.

    Args:
        regularisation: λ > 0; 20 for very sparse sets, 200 to 1,000 for dense ones.
        max_items: items with training events above which `fit` refuses.

    Example: 1 and 2 were always taken together, so a user with 1 is offered 2.
        >>> train = Interactions.from_lists([[1, 2], [1, 2], [3]])
        >>> EASE(regularisation=2.0).fit(train, items=3).score(Interactions.from_lists([[1]])).tolist()
        [[0.0, 0.0, 0.5, 0.0]]
    """

    def __init__(self, *, regularisation: float = 200.0, max_items: int = 20_000) -> None:
        if regularisation <= 0:
            raise ValueError(f"regularisation: must be > 0, received {regularisation}; 20 to 1000 are usual")
        self.regularisation, self.max_items = regularisation, max_items

    def fit(self, train: Interactions, items: int) -> Self:
        # Items without events have zero rows and columns in B; leaving them out changes nothing but the size.
        self.active, self.width = np.unique(train.rows).astype(np.int64), items + 1
        size = len(self.active)
        if size > self.max_items:
            raise ValueError(
                f"items: EASE inverts a dense matrix and takes at most {self.max_items} items with training events, "
                f"received {size} ({size * size * 16 / 1e9:.0f} GB of working memory); use ItemKNN, or raise max_items"
            )
        plain = ClosedFormSettings(l2=self.regularisation, dropout=0.0, user_power=0.0)
        gram = co_occurrence(to_sparse(train, self.width)[:, self.active], plain.user_power)
        self.weights = ease(gram, plain) if size else gram
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        scores = np.zeros((len(histories), self.width), np.float32)
        scores[:, self.active] = to_sparse(histories, self.width)[:, self.active] @ self.weights
        return scores


def to_sparse(sets: Interactions, width: int) -> scipy.sparse.csr_array:
    """The sets as a float32 sparse matrix of ones, [users, width].

    >>> to_sparse(Interactions.from_lists([[2], [1, 2]]), 3).toarray().astype(int).tolist()
    [[0, 0, 1], [0, 1, 1]]
    """
    if sets.rows.size and sets.rows.max() >= width:
        raise ValueError(f"items: rows must be below {width}, received {sets.rows.max()}; pass the N of the catalogue")
    ones = np.ones(len(sets.rows), np.float32)
    return scipy.sparse.csr_array((ones, sets.rows, sets.offsets), shape=(len(sets), width))
