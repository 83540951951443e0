"""One request for a page of recommendations: what every way of asking for it, and its explanation, are told."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.added_items import AddedItems
from serving.tensors import string_line


@dataclasses.dataclass(frozen=True)
class PageRequest:
    """Who asks, after what, and for what.

    Attributes:
        user_id: any string; one never seen gets the items of a cold start.
        recent_item_ids: most recent first; empty = the history stored at training time.
        exclude_item_ids: never answered.
        k: length of the list.
        candidates: how many items are retrieved and ranked.
        timestamp: time of the request in UTC seconds; None = now, once for all that is asked.
        retrieval_model: "retrieval", or another index under its name. ranking_model: the ranker's name.
        added: items younger than the release, which are retrieved beside its own. The ranker does not know them: they
            take the score of what was retrieved about as well, and NaN for every head.
        allow_item_ids: the only items that may be answered; empty = all. policy: weights of `ranking.policy.Policy`
            that differ from the release's. Both need `recommend`.
        context, profile: column -> word, of the moment and of the user, whose stored profile holds where this says nothing;
            a release too old for them refuses a request that has any.
        seed: what the exploration of a policy follows from; None = drawn anew.

    Raises:
        ValueError: k or candidates out of range.

    Example:
        >>> PageRequest("u1", exclude_item_ids=["i1"], added=AddedItems(1, hidden=frozenset({"i2"}))).never
        ['i1', 'i2']
    """

    user_id: str
    recent_item_ids: Sequence[str] = ()
    exclude_item_ids: Sequence[str] = ()
    k: int = 10
    candidates: int = 200
    timestamp: int | None = None
    retrieval_model: str = "retrieval"
    ranking_model: str = "ranking"
    added: AddedItems | None = None
    allow_item_ids: Sequence[str] = ()
    policy: Mapping[str, float] | None = None
    context: Mapping[str, str] | None = None
    profile: Mapping[str, str] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.candidates:
            raise ValueError(
                f"k: must be 1 to candidates, got k={self.k}, candidates={self.candidates}; ask for more candidates"
            )
        if self.timestamp is None:
            object.__setattr__(self, "timestamp", int(time.time()))

    @property
    def never(self) -> list[str]:
        """Ids that the release must not answer itself."""
        return [*self.exclude_item_ids, *(self.added.hidden if self.added else ())]

    def retrieval_inputs(self) -> dict[str, np.ndarray]:
        """Inputs of `retrieval`."""
        return {
            "user_id": np.array([self.user_id], object),
            "recent_item_ids": string_line(self.recent_item_ids),
            "exclude_item_ids": string_line(self.never),
            "k": np.array(self.candidates, np.int32),
            **({"profile": string_line(words_of(self.profile))} if self.profile else {}),
        }

    def ranking_inputs(self, item_ids: np.ndarray, retrieval_scores: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of `ranking` for K candidates. Shapes: item_ids strings [1, K], retrieval_scores [K]."""
        return {
            "user_id": np.array([self.user_id], object),
            "recent_item_ids": string_line(self.recent_item_ids),
            "candidate_ids": item_ids,
            "retrieval_scores": np.asarray(retrieval_scores, np.float32)[None, :],
            "timestamp": np.array([self.timestamp], np.int64),
            # Only where there is one: a release from before it was asked for would refuse it.
            **({"context": string_line(words_of(self.context))} if self.context else {}),
            **({"profile": string_line(words_of(self.profile))} if self.profile else {}),
        }


def words_of(columns: Mapping[str, str] | None) -> list[str]:
    """Columns and words as models take them.

    Example:
        >>> words_of({"device": "phone"})
        ['device=phone']
    """
    return [f"{column}={word}" for column, word in (columns or {}).items()]
