"""A small world whose right answer is known: clicks follow the picture of what a user chose before, and freshness."""

from __future__ import annotations

import dataclasses

import numpy as np

from data.schema import Schema
from ranking.config import RankerSpec, RankingConfig
from ranking.model import Ranker
from ranking.tables import SideInformation, collect_side_information

NOW = 1_700_000_000
DAY = 86_400


@dataclasses.dataclass(frozen=True)
class PlantedWorld:
    """Items with text and image vectors, users with histories of one image style each, candidates with planted clicks.

    `appeal` [B, K] is the true click logit: cosine of the images of history and candidate, times 4, minus the age in weeks.
    """

    spec: RankerSpec
    side: SideInformation
    tables: dict[str, np.ndarray]
    present: np.ndarray
    user: np.ndarray
    history: np.ndarray
    candidates: np.ndarray
    scores: np.ndarray
    timestamp: np.ndarray
    appeal: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        higher = self.scores[:, None, :] > self.scores[:, :, None]
        return (1 + higher.sum(axis=-1)).astype(np.float32)

    def ranker(self, config: RankingConfig) -> Ranker:
        ranker = Ranker(self.spec, config)
        ranker.assign(self.side, self.tables, self.present)
        return ranker


def planted_world(requests: int = 64, items: int = 60, kept: int = 12, length: int = 6, seed: int = 0) -> PlantedWorld:
    """Draws a world; users are as many as requests."""
    rng = np.random.default_rng(seed)
    styles = rng.normal(size=(4, 10))
    style = rng.integers(0, 4, items + 1)
    image = (styles[style] + 0.2 * rng.normal(size=(items + 1, 10))).astype(np.float32)
    text = rng.normal(size=(items + 1, 7)).astype(np.float32)
    present = rng.random((items + 1, 3)) < 0.9
    present[0] = False
    image[~present[:, 1]] = 0
    text[~present[:, 0]] = 0
    embeddings = rng.normal(size=(items + 1, 8)).astype(np.float32)
    embeddings[0] = 0
    present[1:, 2] = True
    created = NOW - rng.integers(0, 28, items + 1) * DAY
    created[::9] = 0
    schema = Schema(requests + 1, items + 1, {"age": 4}, {"category": 5}, {"text": 7, "image": 10})
    side = collect_side_information(
        counts=rng.integers(0, 20, items + 1),
        price=np.where(rng.random(items + 1) < 0.2, np.nan, rng.random(items + 1) * 30),
        created_at=created,
        attributes=rng.integers(0, 5, (items + 1, 1)),
        item_known=rng.random(items + 1) < 0.8,
        profile=rng.integers(0, 4, (requests + 1, 1)),
        user_known=rng.random(requests + 1) < 0.8,
        reference_time=NOW - 60 * DAY,
    )
    spec = RankerSpec(schema, 8, NOW - 60 * DAY, 0.0, 1.0)
    liked = rng.integers(0, 4, requests)
    by_style = [np.flatnonzero((style == each) & (np.arange(items + 1) > 0)) for each in range(4)]
    history = np.stack([rng.choice(by_style[each], length) for each in liked]).astype(np.int32)
    candidates = np.stack([1 + rng.permutation(items)[:kept] for _ in range(requests)]).astype(np.int32)
    unit = image / np.maximum(np.linalg.norm(image, axis=1, keepdims=True), 1e-9)
    taste = unit[history].mean(axis=1)
    age = np.where(created > 0, (NOW - created) / DAY, 0)[candidates]
    appeal = 4 * np.einsum("bd,bkd->bk", taste, unit[candidates]) - age / 7
    return PlantedWorld(
        spec=spec,
        side=side,
        tables={"text": text, "image": image, "behaviour": embeddings},
        present=present,
        user=np.arange(1, requests + 1, dtype=np.int32),
        history=history,
        candidates=candidates,
        scores=(0.3 * appeal + rng.normal(size=appeal.shape)).astype(np.float32),
        timestamp=np.full(requests, NOW, np.int64),
        appeal=appeal,
    )


def as_numpy(answer):
    """A serving form's answer as arrays by name."""
    return {name: np.asarray(values) for name, values in answer.items()}


SMALL = RankingConfig(
    history_length=6,
    list_size=12,
    token_width=8,
    id_width=4,
    side_width=3,
    hidden=(24, 12),
    cross_rank=8,
    jit_compile=False,
)
