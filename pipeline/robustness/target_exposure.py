"""Who gets to see an item, and what that does to everybody's list, when its score changes for every user."""

from __future__ import annotations

import numpy as np

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import select_top_k

FIGURES = ("reach", "exposure", "rank", "ndcg")


class TargetExposure:
    """Lists of Q users over the whole catalogue, into which one item after the other is put with other scores.

    Args:
        scores: float [Q, N + 1]; written into: row 0 and seen items become -inf.
        seen, relevant: of the Q users. k: length of a list.

    Attributes:
        threshold: [Q], the score that an item must pass to stand among a user's first k.

    Example: the item moves from the third place to the first, and pushes a relevant one out of a list of one.
        >>> one = Interactions.from_lists([[1]])
        >>> judge = TargetExposure(np.array([[0.0, 3.0, 2.0, 1.0]]), Interactions.from_lists([[]]), one, k=1)
        >>> judge.figures(3, judge.scores[:, 3])
        {'reach': 0.0, 'exposure': 0.0, 'rank': 3.0, 'ndcg': 1.0}
        >>> judge.figures(3, np.array([9.0]))
        {'reach': 1.0, 'exposure': 1.0, 'rank': 1.0, 'ndcg': 0.0}
    """

    def __init__(self, scores: np.ndarray, seen: Interactions, relevant: Interactions, k: int):
        scores[:, 0] = -np.inf
        scores[seen.users, seen.rows] = -np.inf
        self.scores, self.relevant, self.k = scores, relevant, k
        self._rows, self._best = select_top_k(scores, k + 1)
        self.threshold = self._best[:, k - 1]

    def ndcg(self) -> float:
        """NDCG@k of the lists as they are."""
        return mean_over_users(ndcg_at_k(self._rows[:, : self.k], self.relevant, self.k))

    def figures(self, target: int, scores: np.ndarray) -> dict[str, float]:
        """What it means for all that `target` has these scores [Q], everything else being as it is.

        Returns: `reach`, the share of users with the item among their first k; `exposure`, the mean of `1 / log2(1 +
            rank)` within them, 0 below; `rank`, the mean rank over the whole catalogue, all three over the users who have
            not seen the item; and `ndcg`, everybody's NDCG@k.
        """
        free = np.isfinite(self.scores[:, target])
        if not free.any():
            return dict.fromkeys(FIGURES[:3], float("nan")) | {"ndcg": self.ndcg()}
        # As in `top_k`: of equal scores the lower row comes first.
        above = (self.scores > scores[:, None]).sum(axis=1) - (self.scores[:, target] > scores)
        above += (self.scores[:, :target] == scores[:, None]).sum(axis=1)
        rank = 1.0 + above[free]
        within = rank <= self.k
        ranked = self._with(target, np.where(free, scores, -np.inf))
        return {
            "reach": float(within.mean()),
            "exposure": float(np.where(within, 1.0 / np.log2(1.0 + rank), 0.0).mean()),
            "rank": float(rank.mean()),
            "ndcg": mean_over_users(ndcg_at_k(ranked, self.relevant, self.k)),
        }

    def _with(self, target: int, scores: np.ndarray) -> np.ndarray:
        """Lists [Q, k] with the target where its scores put it; one more than k were kept, should it fall out."""
        rows = np.concatenate([self._rows, np.full((len(scores), 1), target, self._rows.dtype)], axis=1)
        others = np.where(self._rows == target, -np.inf, self._best)
        best = np.concatenate([others, scores[:, None].astype(others.dtype)], axis=1)
        order = np.lexsort((rows, -best), axis=1)[:, : self.k]
        return np.where(np.isfinite(np.take_along_axis(best, order, 1)), np.take_along_axis(rows, order, 1), 0)
