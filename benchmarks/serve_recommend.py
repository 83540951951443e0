"""The `recommend` model of a large catalogue as a release exports it: the default ranker's widths over a million items."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.schema import Schema
from ranking.config import RankerSpec, RankingConfig
from ranking.serving_form import RankingServingForm
from ranking.trees import LEAVES, NODES, TreeTables
from serving.client.recommend_requests import recommend_inputs
from serving.export.recommend import RecommendModule, RecommendSettings
from serving.graphs.policy_tables import PolicyTables
from serving.graphs.request_history import ServingTables
from serving.index.index import CandidateIndex
from towers.config import TowerConfig
from towers.user import UserTower

NOW = 1_700_000_000
CONTENT = {"text": 384, "image": 512, "audio": 200}
EXCLUDED, PAGE = 500, 50
RECOMMENDS: dict[str, dict[str, float] | None] = {"recommend": None, "recommend_mmr": {"mmr_lambda": 0.8}}
"""The policies that are asked for, by the names of what is measured."""
PLATT = {"kind": "platt", "slope": 1.0, "intercept": -2.0}


def serving_form(table: np.ndarray, schema: Schema, counts: np.ndarray, seed: int) -> RankingServingForm:
    """A ranker as the defaults make it, over three modalities and the retrieval embedding, with random weights.

    Content tokens are projections of the retrieval vectors with noise of their own, so that what is alike looks alike.
    """
    rng, config = np.random.default_rng(seed), RankingConfig()
    scores = np.sort(table[1:20_001] @ table[1], kind="stable")[-500:]
    spec = RankerSpec(schema, table.shape[1], NOW - 90 * 86_400, float(scores.mean()), float(scores.std()))
    weights = {"click": 3.0, "like": 1.0, "purchase": 5.0, "skip": -1.0}
    form = RankingServingForm(spec, config, {head: PLATT for head in spec.heads}, weights, 0.02, config.trees)
    numbers = form.network.features.numbers
    form.trees.assign(
        TreeTables(
            rng.choice(numbers, (NODES, config.trees)).astype(np.int32),
            rng.standard_normal((NODES, config.trees), dtype=np.float32),
            0.02 * rng.standard_normal((LEAVES, config.trees), dtype=np.float32),
        )
    )
    tokens = np.zeros(tuple(form.tokens.shape), np.float32)
    for place in range(tokens.shape[1]):
        drawn = table @ rng.standard_normal((table.shape[1], tokens.shape[2]), dtype=np.float32) / table.shape[1] ** 0.5
        drawn += 0.1 * rng.standard_normal(drawn.shape, dtype=np.float32)
        tokens[:, place] = drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-6)
    tokens[0] = 0
    form.tokens.assign(tokens)
    form.present.assign((np.arange(len(table)) > 0)[:, None] & np.ones(tokens.shape[1], bool))
    features = form.network.features
    for weight in form.network.weights:
        if len(weight.shape) == 2 and weight.shape[0] < 10_000 and weight.path.startswith("network"):
            weight.assign(np.asarray(weight) + 0.05 * rng.standard_normal(weight.shape))
    numbers = np.zeros((len(table), 5), np.float32)
    numbers[1:, 0] = np.log1p(counts[1:]) - 2
    features.side.tables["numbers"].assign(numbers)
    for name, sizes in (("attributes", schema.attributes), ("profile", schema.profile)):
        rows = features.side.tables[name].shape[0]
        codes = np.stack([rng.integers(1, size, rows) for size in sizes.values()], axis=1)
        codes[0] = 0
        features.side.tables[name].assign(codes)
    return form


class RecommendWorld:
    """Users whose histories are neighbours of the benchmark's queries, and the models of both stages.

    Args:
        table: f32 [N + 1, D], of the items. near: int [Q, R], the true neighbours of each query, best first.
        folder: for the vocabularies.
    """

    def __init__(self, table: np.ndarray, near: np.ndarray, folder: Path, seed: int):
        rng = np.random.default_rng(seed)
        users, items, length = len(near), len(table) - 1, TowerConfig().history_length
        self.near = near
        folder.mkdir(parents=True)
        for name, count in (("user", users), ("item", items)):
            (folder / f"{name}_ids.txt").write_text(
                "\n" + "".join(f"{name}-{row:07d}\n" for row in range(1, count + 1))
            )
        schema = Schema(
            users + 1,
            items + 1,
            profile={"age": 9, "country": 40},
            attributes={"creator": max(3, items // 50), "category": 200, "domain": 4},
            modalities=CONTENT,
        )
        history = np.zeros((users + 1, length), np.int32)
        for user, rows in enumerate(near, 1):
            history[user] = rng.choice(rows, length, replace=len(rows) < length)
        profile = np.stack([rng.integers(1, size, users + 1) for size in schema.profile.values()], axis=1)
        profile[0] = 0
        counts = np.concatenate([[0], rng.zipf(1.7, items).clip(max=100_000)])
        self.tables = ServingTables(
            folder / "user_ids.txt", folder / "item_ids.txt", profile.astype(np.int32), history,
            np.zeros(users + 2, np.int64), np.zeros(0, np.int32),
        )  # fmt: skip
        self.form = serving_form(table, schema, counts, seed)
        self.tower = UserTower(schema, TowerConfig(width=table.shape[1]))
        codes = np.asarray(self.form.network.features.side.tables["attributes"])
        released = NOW - rng.integers(0, 400 * 86_400, items + 1)
        self.facts = PolicyTables(counts, released, codes[:, 0], codes[:, 1], rng.random(items + 1) < 0.2)
        # Half of what is excluded is what would be found: users have seen what is to their taste.
        taste = np.stack([rng.permutation(rows)[: EXCLUDED // 2] for rows in near])
        self.excluded = np.concatenate([taste, rng.integers(1, items + 1, taste.shape)], axis=1)

    def export(self, index: CandidateIndex, folder: Path, candidates: int) -> None:
        """Writes the SavedModel over an index."""
        settings = RecommendSettings(self.facts, candidates=candidates, k=PAGE)
        RecommendModule(self.tables, self.tower, index, self.form, settings, precision="float16").save(folder)

    def ids(self, number: int) -> tuple[str, list[str]]:
        """Who asks request number n, and what they must not get."""
        user = number % len(self.near)
        return f"user-{user + 1:07d}", [f"item-{row:07d}" for row in self.excluded[user]]

    def request(
        self, number: int, k: int = PAGE, policy: dict[str, float] | None = None, size: int = 1
    ) -> dict[str, np.ndarray]:
        """The inputs of a request, or of a batch of them."""
        asked = [self.ids(number * size + place) for place in range(size)]
        return recommend_inputs(
            [user for user, _ in asked],
            k=k,
            exclude_item_ids=[excluded for _, excluded in asked],
            policy=policy,
            timestamps=[NOW] * size,
            seeds=[number] * size,
        )
