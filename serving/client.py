"""The two-stage recommendation over a model server: retrieve, then rank."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from serving.model_client import DEADLINE_SECONDS, ModelClient

__all__ = ["ModelClient", "RankedItem", "Recommendation", "Recommender"]


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


def _strings(values: Sequence[str]) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    array[0, :] = list(values)
    return array


class Recommender:
    """Retrieves candidates, then ranks them, on one model server.

    Args:
        target: "host:port" of the gRPC port, or a client to share.
        label: version label that both models are asked for, so that their releases move together; None = the highest
            version.
        deadline: seconds for each of the two calls.
    """

    def __init__(
        self, target: str | ModelClient, *, label: str | None = None, deadline: float = DEADLINE_SECONDS
    ) -> None:
        self.client = target if isinstance(target, ModelClient) else ModelClient(target, deadline=deadline)
        self._label = label
        self._deadline = deadline

    def recommend(
        self,
        user_id: str,
        *,
        recent_item_ids: Sequence[str] = (),
        exclude_item_ids: Sequence[str] = (),
        k: int = 10,
        candidates: int = 200,
        timestamp: int | None = None,
        retrieval_model: str = "retrieval",
        ranking_model: str = "ranking",
    ) -> Recommendation:
        """The k best items for a user.

        Args:
            user_id: any string; one never seen gets the items of a cold start.
            recent_item_ids: most recent first; empty = the history stored at training time.
            exclude_item_ids: never answered.
            k: length of the list.
            candidates: how many items are retrieved and ranked.
            timestamp: time of the request in UTC seconds; None = now.
            retrieval_model: "retrieval", or another index under its name.
            ranking_model: the ranker's name.

        Returns:
            At most k items, by ranking score; equal scores keep the retrieval order.

        Raises:
            ValueError: k or candidates out of range.
            ServingError: what the server answered.
        """
        if not 1 <= k <= candidates:
            raise ValueError(f"k: must be 1 to candidates, got k={k}, candidates={candidates}; ask for more candidates")
        user = np.array([user_id], object)
        recent = _strings(recent_item_ids)
        started = time.perf_counter()
        retrieved, retrieval_version = self.client.predict_version(
            retrieval_model,
            {
                "user_id": user,
                "recent_item_ids": recent,
                "exclude_item_ids": _strings(exclude_item_ids),
                "k": np.array(candidates, np.int32),
            },
            label=self._label,
            deadline=self._deadline,
        )
        middle = time.perf_counter()
        keep = retrieved["item_ids"][0] != b""
        ids, scores = retrieved["item_ids"][0][keep], retrieved["scores"][0][keep]
        seconds = {"retrieval": middle - started, "ranking": 0.0}
        if not len(ids):
            return Recommendation(user_id, [], seconds, {retrieval_model: retrieval_version})
        ranked, ranking_version = self.client.predict_version(
            ranking_model,
            {
                "user_id": user,
                "recent_item_ids": recent,
                "candidate_ids": ids[None, :],
                "retrieval_scores": scores[None, :].astype(np.float32),
                "timestamp": np.array([int(time.time()) if timestamp is None else timestamp], np.int64),
            },
            label=self._label,
            deadline=self._deadline,
        )
        seconds["ranking"] = time.perf_counter() - middle
        order = np.argsort(-ranked["score"][0], kind="stable")[:k]
        items = [
            RankedItem(
                item_id=ids[place].decode(),
                score=float(ranked["score"][0, place]),
                click=float(ranked["click"][0, place]),
                purchase=float(ranked["purchase"][0, place]),
                retrieval_score=float(scores[place]),
                retrieval_rank=int(place) + 1,
            )
            for place in order
        ]
        return Recommendation(
            user_id, items, seconds, {retrieval_model: retrieval_version, ranking_model: ranking_version}
        )
