"""Why an item was recommended, as a client reads it: shares of feature groups in words, and what it is like."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

GROUP_WORDS = {
    "text": "its words",
    "image": "its cover",
    "audio": "its sound",
    "video": "its film",
    "behaviour": "what others chose",
    "ids": "this very item",
    "profile": "who you are",
    "attributes": "its kind",
    "retrieval": "your taste overall",
    "popularity": "how popular it is",
    "price": "its price",
    "recency": "how new it is",
    "context": "the moment",
}
"""Feature groups as people say them, true of what speaks for an item and of what speaks against it; another group keeps
its name."""

LIKENESS_WORDS = {
    "text": "Reads like",
    "image": "Looks like",
    "audio": "Sounds like",
    "video": "Moves like",
    "behaviour": "Chosen by those who chose",
}
"""How a modality compares two items."""


class GroupShare(NamedTuple):
    """One feature group's part in a score. A positive contribution speaks for the item, a negative one against it."""

    group: str
    contribution: float
    share: float

    @property
    def words(self) -> str:
        return GROUP_WORDS.get(self.group, self.group)


class LikeItem(NamedTuple):
    """The item of the history that is most like the explained one in one modality."""

    modality: str
    item_id: str
    cosine: float

    @property
    def words(self) -> str:
        return LIKENESS_WORDS.get(self.modality, f"Like, by {self.modality},")


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why one item scores as it does.

    Attributes:
        item_id, score: the item and its ranking score.
        retrieved: whether its retrieval score was known; if not, it was taken as that of the last item retrieved.
        groups: the largest contribution first, so that the first one is the reason to name.
        like: nearest items of the history, the largest cosine first; modalities without one are left out.
    """

    item_id: str
    score: float
    retrieved: bool
    groups: tuple[GroupShare, ...]
    like: tuple[LikeItem, ...]


def read_explanations(answer: Mapping[str, Any], item_ids: list[str], retrieved: list[bool]) -> list[Explanation]:
    """The answer of the `explain` signature to one request, an explanation for each item that the model knows."""
    names, modalities = ([name.decode() for name in answer[key][0]] for key in ("group_names", "modality_names"))
    found = []
    for place, item_id in enumerate(item_ids):
        score = float(answer["score"][0, place])
        if score == -1.0:
            continue
        parts = zip(names, answer["contributions"][0, place], answer["shares"][0, place], strict=True)
        groups = [GroupShare(name, float(contribution), float(share)) for name, contribution, share in parts]
        near = zip(modalities, answer["nearest_item_ids"][0, place], answer["cosines"][0, place], strict=True)
        like = [LikeItem(name, other.decode(), float(cosine)) for name, other, cosine in near if other]
        found.append(
            Explanation(
                item_id,
                score,
                retrieved[place],
                tuple(sorted(groups, key=lambda group: -group.contribution)),
                tuple(sorted(like, key=lambda item: -item.cosine)),
            )
        )
    return found
