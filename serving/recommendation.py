"""What a client gets: ranked items, found items, and how they came about."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


class RankedItem(NamedTuple):
    """One recommended item: its place is its place in the list."""

    item_id: str
    score: float
    click: float
    purchase: float
    retrieval_score: float
    retrieval_rank: int


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The answer to one request.

    Attributes:
        user_id: whom it is for.
        items: best first.
        seconds: wall time of each stage, "retrieval" and "ranking".
        versions: the version of each model that answered.
    """

    user_id: str
    items: list[RankedItem]
    seconds: dict[str, float]
    versions: dict[str, int]


class FoundItem(NamedTuple):
    """One item found by a search."""

    item_id: str
    score: float
