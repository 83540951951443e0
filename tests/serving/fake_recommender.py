"""A stand-in for the models that the tests of the gateway share: known answers, no TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Any

from serving.status import ServingError
from tests.serving.gateway_folders import ITEMS


@dataclasses.dataclass
class Ranked:
    item_id: str
    score: float
    click: float
    purchase: float
    retrieval_score: float
    retrieval_rank: int
    propensity: float = 1.0
    heads: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Answer:
    user_id: str
    items: list[Ranked]
    seconds: dict[str, float]
    versions: dict[str, int]


class FakeRecommender:
    """Answers the items from the last to the first, without the excluded ones, and remembers what it was asked."""

    def __init__(self) -> None:
        self.client = self
        self.calls: list[dict[str, Any]] = []
        self.error: ServingError | None = None
        self.score = 0.5

    def status(self, model: str) -> dict[int, str]:
        if self.error is not None:
            raise self.error
        return {1: "END", 2: "AVAILABLE"}

    def recommend(self, user_id: str, **options: Any) -> Answer:
        self.calls.append({"user_id": user_id, **options})
        if self.error is not None:
            raise self.error
        left = [f"i{row}" for row in range(ITEMS, 0, -1) if f"i{row}" not in options["exclude_item_ids"]]
        ranked = [
            Ranked(item_id, self.score, 0.2, 0.1, 1.0 - place, len(left) - place)
            for place, item_id in enumerate(left[: options["k"]])
        ]
        return Answer(user_id, ranked, {"retrieval": 0.002, "ranking": 0.003}, {"retrieval": 2, "ranking": 2})
