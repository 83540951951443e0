"""A page of `recommend` and the items that its release does not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from serving.client.added_items import AddedItems
from serving.client.recommendation import Recommendation


def reaches_page(added: AddedItems, page: Recommendation, excluded: Collection[str]) -> bool:
    """Whether an added item is retrieved as well as the last retrieved of a page, so that it may belong there.

    Ranked by what was retrieved about as well as it, an item that comes behind all of a page takes a score that was not
    enough for the page.

    Args:
        page: with its query. excluded: ids that must not be answered.
    """
    if page.query is None or not any(map(added.belong_to, page.versions.values())):
        return False
    free = [place for place, name in enumerate(added.ids) if name not in excluded]
    if not free or added.embeddings.shape[1] != len(page.query):
        return False
    best = float((added.embeddings[free] @ page.query).max())
    return not page.items or best >= min(item.retrieval_score for item in page.items)


def insert_added(page: Recommendation, by_score: Recommendation, ours: Collection[str], k: int) -> Recommendation:
    """The page with added items at the places that they have by score; what they push off its end is gone.

    Args:
        page: of the release's own items, in the order of its policy. by_score: at most k items by score, added ones
            among them. ours: ids of added items that may be answered.

    Example:
        >>> from serving.client.recommendation import RankedItem
        >>> make = lambda *ids: Recommendation("u", [RankedItem(one, 0.0, 0.0, 0.0, 0.0, 1) for one in ids], {}, {})
        >>> [item.item_id for item in insert_added(make("b", "a", "c"), make("a", "new", "b"), {"new"}, 3).items]
        ['b', 'new', 'a']
    """
    if not set(by_score.versions.values()) <= set(page.versions.values()):
        return page  # the release has changed between the calls
    items = [item for item in page.items if item.item_id not in ours]
    for place, item in enumerate(by_score.items):
        if item.item_id in ours:
            items.insert(place, item)
    return dataclasses.replace(page, items=items[:k], seconds={**page.seconds, **by_score.seconds})
