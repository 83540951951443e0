"""A stand-in for the models that the tests of the gateway share: known answers, no TensorFlow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.client.added import SimilarItems
from serving.client.added_items import SEARCH, AddedItems
from serving.client.new_items import EncodedItems, NewItem
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


@dataclasses.dataclass
class Found:
    item_id: str
    score: float


class FakeRecommender:
    """Answers the items from the last to the first, without the excluded ones, and remembers what it was asked.

    Item row r of release v lies at [r + 100 v], every query is [1], and an item that is added lies where its title says: the
    title "9.5" comes between i10 and i9, if it is compared with items of its own release. Versions from a million on are
    updates, of release v // 1,000,000. A search for "q" finds the items whose row is nearest to q.
    """

    def __init__(self) -> None:
        self.client = self
        self.calls: list[dict[str, Any]] = []
        self.encoded: list[NewItem] = []
        self.error: ServingError | None = None
        self.score = 0.5
        self.version = 2
        self.known = {f"i{row}" for row in range(1, ITEMS + 1)}

    def status(self, model: str) -> dict[int, str]:
        self._fail()
        return {1: "END", 2: "AVAILABLE"}

    def recommend(self, user_id: str, **options: Any) -> Answer:
        self.calls.append({"user_id": user_id, **options})
        self._fail()
        ids, scores = self._retrieve(options["exclude_item_ids"], options.get("added"))
        ranked = [
            Ranked(item_id, self.score, 0.2, 0.1, score, len(ids) - place)
            for place, (item_id, score) in enumerate(zip(ids[: options["k"]], scores, strict=False))
        ]
        seconds = {"retrieval": 0.002, "ranking": 0.003}
        return Answer(user_id, ranked, seconds, {"retrieval": self.version, "ranking": self.version})

    def similar(self, item: str | np.ndarray, k: int = 10, **options: Any) -> SimilarItems:
        self.calls.append({"item": item, "k": k, **options})
        self._fail()
        ids, scores = self._retrieve(options["exclude_item_ids"], options.get("added"))
        return SimilarItems(ids[:k], scores[:k], self.version)

    def search(self, query: str, k: int = 10, **options: Any) -> list[Found]:
        self.calls.append({"query": query, "k": k, **options})
        self._fail()
        vector = np.array([_number(query), 1.0], np.float32)
        added, excluded = options.get("added"), options["exclude_item_ids"]
        ids = [name for name in sorted(self.known) if name not in excluded]
        scores = np.array([_beside(float(name[1:])) @ vector for name in ids], np.float32)
        order = np.argsort(-scores, kind="stable")
        names = np.array([ids[place].encode() for place in order], object)
        if added is not None:
            names, found = added.merge(vector, names, scores[order], k, self.version, excluded=excluded, space=SEARCH)
            return [Found(name.decode(), float(score)) for name, score in zip(names, found, strict=True)]
        return [Found(ids[place], float(scores[place])) for place in order[:k]]

    def search_media(self, item: NewItem, k: int = 10, **options: Any) -> list[Found]:
        self.calls.append({"item": item, "k": k, **options})
        self._fail()
        ids = [name for name in sorted(self.known) if name not in options["exclude_item_ids"]]
        return [Found(name, 1.0 / place) for place, name in enumerate(ids[:k], start=1)]

    def known_items(self, item_ids: Sequence[str], *, ranking_model: str = "ranking") -> tuple[list[bool], int]:
        self._fail()
        return [item_id in self.known for item_id in item_ids], self.version

    def encode_items(self, items: Sequence[NewItem], **options: Any) -> EncodedItems:
        self._fail()
        self.encoded += items
        places = np.array([[_number(item.title)] for item in items], np.float32)
        return EncodedItems(places + 100 * self._release, np.ones((len(items), 1), bool), {"text": places}, self.version)

    def place_in_search(self, encoded: EncodedItems, *, search_model: str = "search") -> np.ndarray | None:
        self._fail()
        return np.stack([_beside(float(place)) for place in encoded.vectors["text"][:, 0]])

    def place_in_content(self, encoded: EncodedItems) -> dict[str, np.ndarray]:
        self._fail()
        return {}  # it is not searched by content

    def explain(self, user_id: str, item_ids: Sequence[str], **options: Any) -> list[Any]:
        self._fail()
        return []  # it knows of no reasons

    @property
    def _release(self) -> int:
        return self.version // 1_000_000 or self.version

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def _retrieve(self, excluded: Sequence[str], added: AddedItems | None) -> tuple[list[str], list[float]]:
        rows = [row for row in range(ITEMS, 0, -1) if f"i{row}" in self.known and f"i{row}" not in excluded]
        ids = np.array([f"i{row}".encode() for row in rows], object)
        scores = np.array(rows, np.float32) + 100 * self._release
        if added is not None:
            ids, scores = added.merge(np.ones(1), ids, scores, 1000, self.version, excluded=excluded)
        return [name.decode() for name in ids], scores.tolist()


def _number(text: str) -> float:
    """A short number; 0 for any other text."""
    return float(text) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text, re.ASCII) else 0.0


def _beside(row: float) -> np.ndarray:
    """[r, -r² / 2]: its dot product with [q, 1] is largest where r = q."""
    return np.array([row, -row * row / 2], np.float32)
