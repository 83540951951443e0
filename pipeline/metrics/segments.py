"""Whom and what a figure is about: groups of users and of items, by history, profile, popularity and domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data.dataset import Dataset
from pipeline.metrics.examples import interactions

HEAD_SHARE = 0.2
"""Of the items with training events, the most popular; the rest is the long tail."""
FEW_EVENTS = 5
MINIMUM_USERS = 30
"""A smaller group says more about chance than about the group."""
MOST_GROUPS = 12
"""Of one column, the largest: a column of a thousand values is no table."""


def domain_codes(dataset: Dataset) -> np.ndarray:
    """int32 [N + 1]: the domain of every item, 0 where it has none."""
    names = list(dataset.schema.attributes)
    if "domain" not in names:
        return np.zeros(dataset.schema.item_rows, np.int32)
    return dataset.attributes[:, names.index("domain")]


@dataclasses.dataclass(frozen=True)
class Segment:
    """One group of users, or of items.

    Attributes:
        dimension: what it is a group of (`items`, `history`, a profile column). name: which one.
        users: bool [user rows], None = all. items: bool [N + 1], None = all.
    """

    dimension: str
    name: str
    users: np.ndarray | None = None
    items: np.ndarray | None = None


EVERYONE = Segment("all", "all")


@dataclasses.dataclass(frozen=True)
class ItemGroups:
    """A partition of the items: `codes` int [N + 1] into `names`, negative = in no group."""

    names: tuple[str, ...]
    codes: np.ndarray

    def segments(self, dimension: str) -> list[Segment]:
        return [
            Segment(dimension, name, items=self.codes == code)
            for code, name in enumerate(self.names)
            if (self.codes == code).any()
        ]


def popularity_groups(counts: np.ndarray) -> ItemGroups:
    """Never in training; the long tail; and the head: the most popular fifth of the items with training events.

    Items as popular as the last one of the head belong to it, so that the order of rows decides nothing.

    Example:
        >>> popularity_groups(np.array([0, 5, 0, 1, 1, 1, 2])).codes.tolist()
        [-1, 2, 0, 1, 1, 1, 1]
    """
    counts = np.asarray(counts)
    trained = np.sort(counts[1:][counts[1:] > 0])[::-1]
    least = trained[max(1, round(HEAD_SHARE * len(trained))) - 1] if len(trained) else 1
    codes = np.where(counts == 0, 0, np.where(counts >= least, 2, 1))
    codes[0] = -1
    return ItemGroups(("never in training", "long tail", "head"), codes)


def domain_groups(dataset: Dataset) -> ItemGroups | None:
    """The items' domains, the largest first; None where there are not two of them."""
    codes = domain_codes(dataset)
    names = _names(dataset.attribute_vocabulary.get("domain"), int(codes.max(initial=0)) + 1)
    chosen = _largest(np.bincount(codes[1:], minlength=len(names)), minimum=1)
    chosen = [code for code in chosen if code > 0]
    if len(chosen) < 2:
        return None
    place = np.full(len(names), -1)
    place[chosen] = np.arange(len(chosen))
    return ItemGroups(tuple(names[code] for code in chosen), place[codes])


def find_segments(
    dataset: Dataset, users: np.ndarray, known_splits: tuple[str, ...], groups: Mapping[str, ItemGroups]
) -> list[Segment]:
    """Everyone, and every group that holds enough of the asked users.

    Args:
        users: [Q] user rows of the requests. known_splits: splits whose positive events are a user's history.
        groups: partitions of the items by dimension, each of which becomes segments.
    """
    asked = np.zeros(dataset.schema.user_rows, bool)
    asked[users] = True
    events = interactions(dataset, known_splits).counts
    history = {
        "no events": events == 0,
        f"1 to {FEW_EVENTS} events": (events > 0) & (events <= FEW_EVENTS),
        f"more than {FEW_EVENTS} events": events > FEW_EVENTS,
    }
    found = [EVERYONE]
    for dimension, partition in groups.items():
        found += partition.segments(dimension)
    found += [Segment("history", name, users=mask) for name, mask in history.items() if _enough(mask & asked)]
    profile = dataset.profile
    for place, column in enumerate(dataset.schema.profile):
        names = _names(dataset.profile_vocabulary.get(column), dataset.schema.profile[column])
        sizes = np.bincount(profile[asked, place], minlength=len(names))
        chosen = sorted(_largest(sizes, MINIMUM_USERS), key=lambda code: (code == 0, names[code]))
        if len(chosen) > 1:
            found += [Segment(column, names[code], users=profile[:, place] == code) for code in chosen]
    return found


def by_dimension(segments: Sequence[Segment]) -> dict[str, list[Segment]]:
    """The segments of each dimension, in their order."""
    found: dict[str, list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.dimension, []).append(segment)
    return found


def _enough(mask: np.ndarray) -> bool:
    return int(mask.sum()) >= MINIMUM_USERS


def _largest(sizes: np.ndarray, minimum: int) -> list[int]:
    order = np.argsort(-sizes, kind="stable")[:MOST_GROUPS]
    return [int(code) for code in order if sizes[code] >= minimum]


def _names(vocabulary: Sequence[str] | None, size: int) -> list[str]:
    """What each code is called; 0 is what nothing is known of."""
    known = list(vocabulary or [])
    return ["unknown", *(known[code] if code < len(known) else f"code {code}" for code in range(1, size))]
