"""Pages of many answered visits under a policy: what a server would show, made by the same code in NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.ranker.visits import Visits
from ranking.adjustments import bucket_shares
from ranking.array_ops import numpy_ops
from ranking.exploration import posterior_std
from ranking.policy import Policy
from ranking.rerank import Candidates, rerank
from ranking.serving_form import RankingServingForm
from serving.graphs.policy_tables import ITEM_CODES, PolicyTables

BLOCK = 256


@dataclasses.dataclass(frozen=True)
class RankedVisits:
    """Answered visits with what policies look at.

    Attributes:
        visits: Q of them. facts: see `PolicyTables`. tokens: f32 [N + 1, M, D] unit content vectors, zero where there is none.
    """

    visits: Visits
    facts: PolicyTables
    tokens: np.ndarray

    def take(self, index: np.ndarray) -> RankedVisits:
        """Some of the visits."""
        return RankedVisits(self.visits.take(index), self.facts, self.tokens)

    def pages(self, policy: Policy, k: int, group_share: np.ndarray | None = None) -> np.ndarray:
        """The pages of all visits, item rows int32 [Q, k].

        Args:
            group_share: [Q], a floor of each visit's own, in place of the policy's.
        """
        codes, prior = self.facts.item_codes(), self.facts.bucket_prior()
        weights: dict[str, float | np.ndarray] = {**policy.weights()}
        shown = []
        for start in range(0, len(self.visits), BLOCK):
            part = slice(start, start + BLOCK)
            if group_share is not None:
                weights["group_share"] = np.asarray(group_share[part], np.float32)
            given = self._candidates(part, codes, prior, policy)
            shown.append(rerank(given, weights if group_share is not None else policy, k, ops=numpy_ops).rows)
        return np.concatenate(shown)

    def _candidates(self, part: slice, codes: np.ndarray, prior: np.ndarray, policy: Policy) -> Candidates:
        rows, times, history = self.visits.rows[part], self.visits.timestamps[part], self.visits.history[part]
        named = dict(zip(ITEM_CODES, codes[rows].transpose(2, 0, 1), strict=True))
        released = np.asarray(self.facts.released)[rows]
        diverse = policy.mmr_lambda < 1 or policy.dpp > 0
        return Candidates(
            rows=rows,
            scores=self.visits.scores[part],
            age_days=((times[:, None] - released) / 86_400).astype(np.float32),
            dated=(released > 0) & (times > 0)[:, None],
            log_popularity=np.log1p(named["events"].astype(np.float32)),
            creator=named["creator"],
            category=named["category"],
            protected=named["protected"] > 0,
            bucket=named["bucket"],
            target=bucket_shares(codes[history][:, :, 3], history > 0, prior, ops=numpy_ops).astype(np.float32),
            vectors=self.tokens[rows].transpose(0, 2, 1, 3) if diverse else None,
            deviation=posterior_std(self.visits.click[part], named["events"].astype(np.float32), ops=numpy_ops),
        )


def served_tokens(form: RankingServingForm, item_embeddings: np.ndarray) -> np.ndarray:
    """The content vectors that `recommend` tells items apart by, f32 [N + 1, M, D], unit or zero.

    Those of the ranker's modalities; of the index where items have no content.
    """
    columns = [place for place, name in enumerate(form.spec.modalities) if name != "behaviour"]
    if columns:
        drawn = np.asarray(form.tokens, np.float32)[:, columns] * np.asarray(form.present)[:, columns, None]
    else:
        drawn = np.asarray(item_embeddings, np.float32)[:, None, :]
    return drawn / np.maximum(np.linalg.norm(drawn, axis=2, keepdims=True), 1e-6)
