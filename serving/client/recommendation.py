"""What a client gets: ranked items, found items, and how they came about."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class RankedItem(NamedTuple):
    """One recommended item: its place is its place in the list.

    `propensity` is the probability with which this item was chosen for its place given those above it
    (`ranking.page.fill_page`), 1 where nothing was left to chance; `heads` has every head's answer, where they are told.
    """

    item_id: str
    score: float
    click: float
    purchase: float
    retrieval_score: float
    retrieval_rank: int
    propensity: float = 1.0
    heads: Mapping[str, float] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The answer to one request.

    Attributes:
        user_id: whom it is for.
        items: best first.
        seconds: wall time of each stage, "recommend", or "retrieval" and "ranking".
        versions: the version of each model that answered, and of those that it stands for.
        query: f32 [D], whose dot product with an embedding is a retrieval score; None where it is not told.
    """

    user_id: str
    items: list[RankedItem]
    seconds: dict[str, float]
    versions: dict[str, int]
    query: np.ndarray | None = dataclasses.field(default=None, compare=False)


class FoundItem(NamedTuple):
    """One item found by a search."""

    item_id: str
    score: float
