"""Deceptive content through the ranker: changes that follow its gradient, changes made against retrieval, and final lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from pipeline.ranker.rank_requests import answer
from pipeline.ranker.warm import LEARNED
from pipeline.robustness.content_attack import SOFTNESS, AttackedItems, moved_content, reach_gain, with_intervals
from pipeline.robustness.full_path import Final, FullPath
from ranking.content import unit_token
from towers.attack import STEPS
from towers.input_gradient import InputGradient

USERS = 256
"""Whose lists the ranker's gradient is taken for; all are judged."""
RANK_SOFTNESS = 0.1


class RankedItems:
    """Attacked items as the whole path serves them, as functions of their content.

    Args:
        items: as retrieval serves them. path: the lists they come into. seed: of the users that gradients are taken for.
    """

    def __init__(self, items: AttackedItems, path: FullPath, seed: int = 0):
        self.items, self.path, form = items, path, path.models.form
        self.names = tuple(form.spec.modalities)
        with np.load(path.models.ranking / LEARNED) as learned:
            self.projections = {
                name: (learned[f"content/{name}_mean"], learned[f"content/{name}_kernel"]) for name in self.names
            }
        self.present = ops.convert_to_numpy(form.present)[items.rows]
        most = min(USERS, len(path.queries))
        self.users = np.sort(np.random.default_rng(seed).choice(len(path.queries), most, replace=False))

    def tokens(self, features: Mapping[str, Any], vectors: Any) -> Any:
        """What the ranker reads of content {modality: [B, F_m]} and served vectors [B, D] -> [B, M, D_t]."""
        frames, parts = self.items.served.two_tower.schema.frames, []
        for place, name in enumerate(self.names):
            values = vectors if name == "behaviour" else features.get(name, self.items.features.get(name))
            mean, kernel = self.projections[name]
            values = ops.cast(ops.convert_to_tensor(values), "float32")
            if name in frames:
                values = ops.mean(ops.reshape(values, (-1, frames[name], len(mean))), axis=1)
            parts.append(unit_token(values, mean, kernel) * self.present[:, place : place + 1])
        return ops.stack(parts, axis=1)

    def gain(self, features: Mapping[str, Any]) -> Any:
        """The share of users who are shown the item, made smooth: retrieved, and among the first k of the final list. [B]

        Formula: `mean_u sigmoid((s_u - t_u) / (0.3 sd)) sigmoid((f_u - h_u) / (0.3 sd'))`, s the retrieval score and t that
        of a user's last candidate, f the score in the final list and h the one to pass; the rank among the candidates that the
        ranker reads is a sum of sigmoids. Boosted trees, where the ranker has any, count and lend no slope.
        """
        path, users = self.path, self.users
        vectors = self.items.embed(features)
        scores = ops.transpose(ops.matmul(vectors, path.queries[users].T.astype(np.float32)))  # [U, B]
        ranked = path.scores[users]
        others = np.where(path.rows[users][:, :, None] == self.items.rows, -np.inf, ranked[:, :, None]).astype(np.float32)
        spread = max(float(np.nanstd(np.where(np.isfinite(ranked), ranked, np.nan))), 1e-9)
        ranks = 1.0 + ops.sum(ops.sigmoid((others - scores[:, None]) / (RANK_SOFTNESS * spread)), axis=1)
        final = self._final_scores(features, vectors, scores, ranks)
        hurdle = np.where(np.isfinite(ranked[:, path.retrieved - 1]), ranked[:, path.retrieved - 1], 0.0)
        height = np.where(np.isfinite(path.threshold[users]), path.threshold[users], 0.0)
        width = max(float(path.now[users].std(axis=1).mean()), 1e-9)
        retrieved = ops.sigmoid((scores - hurdle[:, None].astype(np.float32)) / (SOFTNESS * spread))
        shown = ops.sigmoid((final - height[:, None].astype(np.float32)) / (SOFTNESS * width))
        open_to = path.open[users][:, self.items.rows].astype(np.float32)
        return ops.sum(open_to * retrieved * shown, axis=0) / np.maximum(open_to.sum(axis=0), 1.0)

    def _final_scores(self, features: Mapping[str, Any], vectors: Any, scores: Any, ranks: Any) -> Any:
        """The served answer about every item as a candidate of every user, what it reads of others as it was. [U, B]"""
        path, users, form = self.path, self.users, self.path.models.form
        requests, count = path.requests, form.tokens.shape[0]
        rows = np.broadcast_to(self.items.rows.astype(np.int32), (len(users), len(self.items.rows)))
        inputs = form.request_inputs(
            ops.convert_to_tensor(requests.users[users]), ops.convert_to_tensor(requests.history[users]), rows, scores,
            ops.convert_to_tensor(requests.timestamps[users]), ranks, ops.convert_to_tensor(requests.context[users]),
        )  # fmt: skip
        # The items once more behind the table: histories go on reading them as they were.
        tokens = ops.concatenate([form.tokens, self.tokens(features, vectors)], axis=0)
        present = ops.concatenate([form.present, self.present], axis=0)
        behind = np.broadcast_to(count + np.arange(len(self.items.rows), dtype=np.int32), rows.shape)
        whose = np.concatenate([np.arange(count, dtype=np.int32), self.items.rows.astype(np.int32)])
        x0 = form.network.features(tokens, present, whose, {**inputs, "candidates": behind})
        return form.answer(x0, ops.convert_to_tensor(rows), inputs["retrieval_scores"])["score"]

    def figures(self, features: Mapping[str, np.ndarray], seed: int) -> dict[str, list[float]]:
        """Figures of `FullPath` with this content, each item alone, as [mean, low, high] over the items."""
        vectors = self.items.vectors(features)
        tokens, scores = ops.convert_to_numpy(self.tokens(features, vectors)), self.path.queries @ vectors.T
        found = [
            self.path.figures(int(row), scores[:, place], self._final(int(row), tokens[place]))
            for place, row in enumerate(self.items.rows)
        ]
        return with_intervals(found, seed)

    def _final(self, row: int, token: np.ndarray) -> Final:
        """The whole served answer about one item, its token exchanged in the form's table meanwhile."""
        form, requests = self.path.models.form, self.path.requests

        def final(places: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
            before = ops.convert_to_numpy(form.tokens).copy()
            table = before.copy()
            table[row] = token
            form.tokens.assign(table)
            try:
                found = answer(
                    form, requests.users[places], requests.history[places], np.full((len(places), 1), row, np.int32),
                    scores[:, None].astype(np.float32), requests.timestamps[places], ranks[:, None], requests.context[places],
                )  # fmt: skip
            finally:
                form.tokens.assign(before)
            return found["score"][:, 0]

        return final


def attack_ranker(
    ranked: RankedItems, *, epsilons: Sequence[float], steps: int = STEPS, seed: int = 0
) -> list[dict[str, Any]]:
    """Attack all modalities of every item: against retrieval by PGD, and against the ranker by FGSM and PGD.

    Returns: for each attack `aim`, `method`, `epsilon` and the figures of `FullPath`; the first line is `none`.
    """
    items, path = ranked.items, ranked.path
    start = dict(items.features)
    shapes = {name: table.shape for name, table in start.items()}
    spread = max(float(np.nanstd(path.queries @ items.served.items[1:].T, axis=1).mean()), 1e-9)
    retrieval = reach_gain(items.embed, path.queries, path.scores[:, min(path.k, path.retrieved) - 1], spread)
    gradients = {"retrieval": InputGradient(retrieval, shapes), "ranker": InputGradient(ranked.gain, shapes)}
    lines = [{"aim": "", "method": "none", "epsilon": 0.0, **ranked.figures(start, seed)}]
    for epsilon in epsilons:
        for aim, method in (("retrieval", "pgd"), ("ranker", "fgsm"), ("ranker", "pgd")):
            moved = moved_content(gradients[aim], start, epsilon, method, "l2", steps)
            lines.append({"aim": aim, "method": method, "epsilon": epsilon, **ranked.figures(moved, seed)})
    return lines
