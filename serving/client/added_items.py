"""Items younger than the release: an exact search over their embeddings, joined with what the server found."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from serving.release_number import base_version

RETRIEVAL, SEARCH = "retrieval", "search"
NEIGHBOURS = 5
"""Candidates on either side, in the order of retrieval, whose ranking scores an unranked item takes the mean of."""


@dataclasses.dataclass(frozen=True)
class AddedItems:
    """What has been added to, changed in and taken from a catalogue since its release, as one request sees it.

    A server's answer and these belong together only when they come from one release: embeddings of two trainings have
    nothing to do with each other. An update between two releases moves no item and belongs to its release.

    Attributes:
        version: of the release that made the embeddings, or of an update of it.
        ids: of the added and changed items, [N].
        embeddings: f32 [N, D], from `item_encoder`.
        search_vectors: f32 [N, E], from the `items` signature of `search`; None where the release has none.
        content_vectors: modality -> f32 [N, E], from `content_search`; zeros where an item has none.
        hidden: ids that the release must not answer itself: taken away, or changed, so that their place in its index
            says what they were.

    Raises:
        ValueError: tables of other lengths than the ids.

    Example:
        >>> added = AddedItems(1, ("new",), np.array([[2.0, 0.0]], np.float32))
        >>> ids, scores = added.merge(np.array([1.0, 0.0]), np.array([b"a", b"b"], object), np.array([3.0, 1.0]), 2, 1)
        >>> ids.tolist(), scores.tolist()
        ([b'a', b'new'], [3.0, 2.0])
    """

    version: int
    ids: tuple[str, ...] = ()
    embeddings: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    search_vectors: np.ndarray | None = None
    content_vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    hidden: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.embeddings)}
        lengths |= set() if self.search_vectors is None else {len(self.search_vectors)}
        lengths |= {len(table) for table in self.content_vectors.values()}
        if len(lengths) != 1:
            raise ValueError(
                "ids, embeddings, search_vectors, content_vectors: need one line an item, received "
                f"{sorted(lengths)} lines"
            )

    def belong_to(self, version: int) -> bool:
        """Whether scores of that version are comparable with these embeddings (same base release).

        Example:
            >>> AddedItems(3).belong_to(3_000_005), AddedItems(3).belong_to(4)
            (True, False)
        """
        return base_version(version) == base_version(self.version)

    def merge(
        self,
        query: np.ndarray | None,
        ids: np.ndarray,
        scores: np.ndarray,
        k: int,
        version: int,
        *,
        excluded: Collection[str] = (),
        space: str = RETRIEVAL,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best of what a server found and of the added items; equal scores leave the server's first.

        Args:
            query: f32 [D] (of a search [E]), as the server told it; None = it does not tell, and nothing is added.
                Zeros find nothing.
            ids, scores: what it found, best first: `bytes` in an object array, and f32 [K].
            version: of the answer.
            excluded: ids that must not be answered.
            space: what the scores compare: `RETRIEVAL`, `SEARCH`, or a modality's content, which not every item has.
        """
        hidden = [place for place, name in enumerate(ids) if name.decode() in self.hidden]
        ids, scores = np.delete(ids, hidden), np.delete(scores, hidden)
        own = {RETRIEVAL: self.embeddings, SEARCH: self.search_vectors}
        table = own[space] if space in own else self.content_vectors.get(space)
        if query is None or table is None or not self.belong_to(version) or not query.any():
            return ids[:k], scores[:k]
        there = np.asarray(table.any(axis=1)) | (space in own)
        free = [place for place, name in enumerate(self.ids) if there[place] and name not in excluded]
        if not free or table.shape[1] != len(query):
            return ids[:k], scores[:k]
        new_ids = np.empty(len(free), object)
        new_ids[:] = [self.ids[place].encode() for place in free]
        both_ids = np.concatenate([ids, new_ids])
        both_scores = np.concatenate([scores, table[free] @ np.asarray(query, np.float32)]).astype(np.float32)
        order = np.argsort(-both_scores, kind="stable")[:k]
        return both_ids[order], both_scores[order]

    def unranked(self, ids: np.ndarray, scores: np.ndarray, unknown_score: float) -> np.ndarray:
        """bool [K]: candidates that are added items and that the ranker does not know, by the score it gives such ones."""
        ours = set(self.ids)
        return np.array([name.decode() in ours for name in ids], bool) & (scores == unknown_score)


def found_items(
    answer: Mapping[str, np.ndarray],
    k: int,
    version: int,
    added: AddedItems | None,
    *,
    excluded: Collection[str] = (),
    space: str = RETRIEVAL,
) -> tuple[np.ndarray, np.ndarray]:
    """What a server found for its only question, without the padding, and with those of `added` that belong among it.

    Args:
        answer: `item_ids` and `scores` [1, K], and where the server tells it the `query` [1, D].
        k, version, excluded, space: as of `AddedItems.merge`. added: None = nothing is added, nor is anything cut.

    Returns:
        `bytes` in an object array, and f32, best first.
    """
    there = answer["item_ids"][0] != b""
    ids, scores = answer["item_ids"][0][there], answer["scores"][0][there]
    if added is None:
        return ids, scores
    query = answer["query"][0] if "query" in answer else None
    return added.merge(query, ids, scores, k, version, excluded=excluded, space=space)


def fill_unranked(scores: np.ndarray, unranked: np.ndarray) -> np.ndarray:
    """Ranking scores in which each unranked candidate has the mean score of those retrieved next to it.

    The ranker knows an item by its row, which a new one has not got. What is known of it is how well it was retrieved, and
    how candidates fare that were retrieved about as well. Where nothing is ranked, the order of retrieval stays.

    Args:
        scores: f32 [K], in the order of retrieval. unranked: bool [K].

    Example:
        >>> fill_unranked(np.array([4.0, -1.0, 2.0], np.float32), np.array([False, True, False])).tolist()
        [4.0, 3.0, 2.0]
    """
    filled = np.array(scores, np.float32)
    ranked = np.flatnonzero(~unranked)
    if not len(ranked):
        return -np.arange(len(filled), dtype=np.float32)
    for place in np.flatnonzero(unranked):
        at = int(np.searchsorted(ranked, place))
        near = ranked[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]
        filled[place] = filled[near].mean()
    return filled
