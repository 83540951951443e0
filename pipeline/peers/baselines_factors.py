"""Matrix factorisation by the library `implicit`: iALS and BPR behind the contract of `pipeline.retrieval.baselines`.

`implicit` is no requirement of Triptych itself: it is installed with `requirements-dev.txt`, for measuring.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse
import threadpoolctl
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.interactions import Interactions
from pipeline.retrieval.baselines import to_sparse


class ImplicitALS:
    """Weighted matrix factorisation by alternating least squares; a user is folded in from the item set alone.

    min Σ_ui c_ui (p_ui − x_uᵀ y_i)² + λ (Σ ||x_u||² + Σ ||y_i||²) with p = 1, c = α on a user's items and p = 0, c = 1
    elsewhere. Hu, Koren & Volinsky (2008), https://doi.org/10.1109/ICDM.2008.22.

    Args:
        factors: D. regularisation: λ >= 0. weight: α, how many unseen items one seen item outweighs.
        iterations: passes over users and items. seed: of the first factors.

    Example: 1 and 2 were always taken together, so a user with 1 is offered 2 and not 3.
        >>> train = Interactions.from_lists([[1, 2], [1, 2], [1, 2], [3]])
        >>> model = ImplicitALS(factors=2, regularisation=0.1, weight=10.0).fit(train, items=3)
        >>> _, _, second, third = model.score(Interactions.from_lists([[1]]))[0]
        >>> bool(second > 0.5 > third)
        True
    """

    def __init__(
        self,
        *,
        factors: int = 64,
        regularisation: float = 1.0,
        weight: float = 10.0,
        iterations: int = 15,
        seed: int = 7,
    ) -> None:
        if factors < 1 or iterations < 1 or regularisation < 0 or weight <= 0:
            raise ValueError(
                "factors, iterations, regularisation, weight: must be >= 1, >= 1, >= 0 and > 0, received "
                f"{factors}, {iterations}, {regularisation} and {weight}; try 64, 15, 1 and 10"
            )
        self.settings = {"factors": factors, "regularization": regularisation, "alpha": weight, "iterations": iterations}
        self.seed = seed

    def fit(self, train: Interactions, items: int) -> Self:
        with threadpoolctl.threadpool_limits(1, user_api="blas"):  # implicit has threads of its own
            self.model = AlternatingLeastSquares(**self.settings, random_state=self.seed)
            self.model.fit(_matrix(train, items + 1), show_progress=False)
        self.model.num_threads = 1  # blocks of users are scored side by side
        self.items = np.ascontiguousarray(self.model.item_factors)
        _ = self.model.YtY  # cached now, and not by several threads at once
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        matrix = _matrix(histories, len(self.items))
        return self.model.recalculate_user(np.arange(len(histories)), matrix) @ self.items.T


class BPR:
    """Matrix factorisation by pairs: what a user took shall score above what the user did not.

    max Σ ln σ(x_ui − x_uj) − λ ||Θ||², i taken, j drawn at random. Rendle et al. (2009), https://arxiv.org/abs/1205.2618.
    A user's vector is learned with the items', so that only users of the training sets can be scored, by their rows.

    Args:
        factors: D, without the items' bias. learning_rate, regularisation: > 0 and >= 0. iterations: passes over the log.
        seed: of the first factors and of the draws; one thread, so that a seed always gives the same model.

    Example: even users take even items, odd users odd ones.
        >>> train = Interactions.from_lists([[2, 4], [1, 3], [2, 4, 6], [1, 3, 5]] * 5)
        >>> scores = BPR(factors=4, learning_rate=0.1, iterations=50).fit(train, items=6).score(train, np.arange(20))
        >>> bool(scores[0, 6] > scores[0, 5]), bool(scores[1, 5] > scores[1, 6])
        (True, True)
    """

    def __init__(
        self,
        *,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularisation: float = 0.01,
        iterations: int = 100,
        seed: int = 7,
    ) -> None:
        if factors < 1 or iterations < 1 or regularisation < 0 or learning_rate <= 0:
            raise ValueError(
                "factors, iterations, regularisation, learning_rate: must be >= 1, >= 1, >= 0 and > 0, received "
                f"{factors}, {iterations}, {regularisation} and {learning_rate}; try 64, 100, 0.01 and 0.05"
            )
        self.settings = {"factors": factors, "regularization": regularisation, "iterations": iterations}
        self.learning_rate, self.seed = learning_rate, seed

    def fit(self, train: Interactions, items: int) -> Self:
        model = BayesianPersonalizedRanking(
            **self.settings, learning_rate=self.learning_rate, random_state=self.seed, num_threads=1
        )
        model.fit(_matrix(train, items + 1), show_progress=False)
        self.users, self.items = model.user_factors, np.ascontiguousarray(model.item_factors)
        # The library leaves rows without events as they were drawn; a user or an item nobody knows has no vector.
        self.users[train.counts == 0] = 0.0
        self.items[np.bincount(train.rows, minlength=items + 1) == 0] = 0.0
        return self

    def score(self, histories: Interactions, users: ArrayLike | None = None) -> NDArray[np.float32]:
        rows = np.zeros(0, np.int64) if users is None else np.asarray(users, dtype=np.int64)
        if len(rows) != len(histories):
            raise ValueError(
                f"users: BPR has a vector a user and needs the {len(histories)} rows in the training sets, received "
                f"{'none' if users is None else len(rows)}; pass users=, or take a model that reads item sets"
            )
        return self.users[rows] @ self.items.T


def _matrix(sets: Interactions, width: int) -> scipy.sparse.csr_matrix:
    """The library takes int32 indices and the older matrix class."""
    taken = to_sparse(sets, width)
    return scipy.sparse.csr_matrix(
        (taken.data, taken.indices.astype(np.int32), taken.indptr.astype(np.int32)), shape=taken.shape
    )
