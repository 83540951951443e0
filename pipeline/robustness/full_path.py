"""Who gets to see an item in the final list: retrieved, ranked and cut, with one item after the other put in anew."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from pipeline.metrics.examples import Requests
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import select_top_k
from pipeline.ranker.rank_requests import answer
from pipeline.robustness.nightly_update import ServedModels

FIGURES = ("retrieved", "reach", "exposure", "rank", "ndcg")

Final = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(places of requests [R], retrieval scores [R], retrieval ranks [R]) -> the item's scores in the final lists [R]."""


class FullPath:
    """Final lists of Q users, into which one item after the other is put with other content.

    A candidate's score depends on itself and on its rank among what was retrieved, on nothing else of the list. An item that
    comes in moves others by one rank at most; so all of them are scored at their rank and at both beside it, once, and any
    change of one item has its exact lists without scoring the others again. Histories read items as they were.

    Args:
        models: whose lists they are, by exact search. profile: [user rows, P]. requests: Q of them. released: [N + 1] UTC
            seconds, 0 = always there; nobody is shown what is not out at the time of the request. retrieved: T.
        k: length of a final list.

    Attributes:
        queries: [Q, D]. open: bool [Q, N + 1], who could be shown what. rows, scores: [Q, T + 1], what is retrieved and one
            more. now: [Q, T + 1], their scores in the final list. threshold: [Q], the score that its k-th item has.
    """

    def __init__(
        self, models: ServedModels, profile: np.ndarray, requests: Requests, released: np.ndarray, retrieved: int, k: int
    ):
        self.models, self.requests, self.k = models, requests, k
        self.queries = models.served.queries(profile, requests.users, requests.history)
        scores = self.queries @ models.served.items.T
        self.open = np.ones(scores.shape, bool)
        self.open[:, 0] = False
        self.open[requests.seen.users, requests.seen.rows] = False
        self.open &= ~((released > requests.timestamps[:, None]) & (requests.timestamps[:, None] > 0))
        self.retrieved = min(retrieved, scores.shape[1] - 2)
        self.rows, self.scores = select_top_k(np.where(self.open, scores, -np.inf), self.retrieved + 1)
        self.rows = np.where(np.isfinite(self.scores), self.rows, 0).astype(np.int32)
        self.now = self._at(0)
        within = np.where(self.rows[:, : self.retrieved] > 0, self.now[:, : self.retrieved], -np.inf)
        self.threshold = -np.sort(-within, axis=1)[:, min(k, self.retrieved) - 1]

    def _at(self, shift: int) -> np.ndarray:
        """Final scores of what is retrieved, had each another rank by so much. [Q, T + 1]"""
        asked = self.requests
        given = np.where(self.rows > 0, self.scores, np.finfo(np.float32).min).astype(np.float32)
        ranks = np.maximum(np.arange(1, self.retrieved + 2) + shift, 1).astype(np.float32)
        return answer(
            self.models.form, asked.users, asked.history, self.rows, given, asked.timestamps,
            np.broadcast_to(ranks, given.shape), asked.context,
        )["score"]  # fmt: skip

    @functools.cached_property
    def final(self) -> np.ndarray:
        """[3, Q, T + 1]: final scores at one rank less, as it is, and at one more."""
        return np.stack([self._at(-1), self.now, self._at(1)])

    def as_served(self, target: int) -> dict[str, float]:
        """The figures of an item with the content that it has."""
        place = np.argmax(self.rows == target, axis=1)
        scores = self.queries @ self.models.served.items[target]
        scores = np.where((self.rows == target).any(axis=1), np.take_along_axis(self.scores, place[:, None], 1)[:, 0], scores)
        return self.figures(target, scores, lambda places, _, ranks: self.now[places, place[places]])

    def figures(self, target: int, scores: np.ndarray, final: Final) -> dict[str, float]:
        """What it means for all that `target` has these retrieval scores [Q] and is ranked by `final`.

        Returns: over the users who could be shown the item, `retrieved`, the share for whom the ranker is asked about it;
            `reach`, the share with the item in their final list of k; `exposure`, the mean of `1 / log2(1 + rank)` within
            it; `rank`, the mean rank, T + 1 where it is not retrieved; and `ndcg`, everybody's NDCG@k.
        """
        free = self.open[:, target]
        others = (self.rows > 0) & (self.rows != target)
        above = others & (self.scores > scores[:, None])
        rank = 1 + above.sum(axis=1)
        asked = np.flatnonzero(free & (rank <= self.retrieved))
        own = np.full(len(scores), -np.inf)
        if len(asked):
            own[asked] = final(asked, scores[asked], rank[asked].astype(np.float32))
        # The item leaves its old place and takes its new one; whoever lies between has moved by one.
        place = np.argmax(self.rows == target, axis=1)
        stood = (self.rows == target).any(axis=1)
        left = stood[:, None] & (np.arange(self.rows.shape[1]) > place[:, None])
        shift = (np.isfinite(own)[:, None] & ~above).astype(int) - left
        moved = self.now
        if (others & (shift != 0)).any():
            moved = np.take_along_axis(self.final, (1 + shift)[None], axis=0)[0]
        ranks = np.arange(1, self.rows.shape[1] + 1) + shift
        moved = np.where(others & (ranks <= self.retrieved), moved, -np.inf)
        better = (moved > own[:, None]) | ((moved == own[:, None]) & above)
        final_rank = np.where(np.isfinite(own), 1 + better.sum(axis=1), self.retrieved + 1)[free]
        within = final_rank <= self.k
        ranked = self._lists(target, moved, own)
        if not free.any():
            return dict.fromkeys(FIGURES[:4], float("nan")) | {"ndcg": ranked}
        return {
            "retrieved": float(np.isfinite(own[free]).mean()),
            "reach": float(within.mean()),
            "exposure": float(np.where(within, 1.0 / np.log2(1.0 + final_rank), 0.0).mean()),
            "rank": float(final_rank.mean()),
            "ndcg": ranked,
        }

    def _lists(self, target: int, moved: np.ndarray, own: np.ndarray) -> float:
        """NDCG@k of the final lists with the item in them."""
        rows = np.concatenate([self.rows, np.full((len(own), 1), target, np.int32)], axis=1)
        scores = np.concatenate([moved, own[:, None]], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        ranked = np.where(np.isfinite(np.take_along_axis(scores, best, 1)), np.take_along_axis(rows, best, 1), 0)
        return mean_over_users(ndcg_at_k(ranked, self.requests.relevant, self.k))
