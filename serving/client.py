"""Recommendation, search and the encoding of new items over a model server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from serving.added_items import AddedItems, fill_unranked
from serving.client_added import SimilarItems, known_items, place_in_search, similar
from serving.client_explain import explain
from serving.explanation import Explanation
from serving.model_client import DEADLINE_SECONDS, ModelClient
from serving.new_items import EncodedItems, NewItem, item_inputs
from serving.recommendation import FoundItem, RankedItem, Recommendation
from serving.status import ServingError

__all__ = [
    "EncodedItems", "Explanation", "FoundItem", "ModelClient", "NewItem", "RankedItem", "Recommendation", "Recommender",
]  # fmt: skip


UNKNOWN_SCORE = -1.0
"""What `ranking` answers for a candidate that it does not know."""


def _strings(values: Sequence[str]) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    array[0, :] = list(values)
    return array


class Recommender:
    """Recommends (retrieves candidates, then ranks them), searches and encodes new items on one model server.

    Args:
        target: "host:port" of the gRPC port, or a client to share.
        label: version label that all models are asked for, so that their releases move together; None = the highest
            version.
        deadline: seconds for each call.
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
        added: AddedItems | None = None,
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
            added: items younger than the release, which are retrieved beside its own. The ranker does not know them: they
                take the score of what was retrieved about as well, and NaN for every head.

        Returns:
            At most k items, by ranking score; equal scores keep the retrieval order.

        Raises:
            ValueError: k or candidates out of range.
            ServingError: what the server answered; ABORTED where it serves no ranking of the release that retrieved.
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
        if added is not None:
            query = retrieved["query"][0] if "query" in retrieved else None
            never = {*exclude_item_ids, *recent_item_ids}
            ids, scores = added.merge(query, ids, scores, candidates, retrieval_version, excluded=never)
        seconds = {"retrieval": middle - started, "ranking": 0.0}
        if not len(ids):
            return Recommendation(user_id, [], seconds, {retrieval_model: retrieval_version})
        ranked, ranking_version = self._same_release(
            ranking_model,
            retrieval_version,
            {
                "user_id": user,
                "recent_item_ids": recent,
                "candidate_ids": ids[None, :],
                "retrieval_scores": scores[None, :].astype(np.float32),
                "timestamp": np.array([int(time.time()) if timestamp is None else timestamp], np.int64),
            },
        )
        seconds["ranking"] = time.perf_counter() - middle
        final = ranked["score"][0]
        unranked = np.zeros(len(ids), bool) if added is None else added.unranked(ids, final, UNKNOWN_SCORE)
        if unranked.any():
            final = fill_unranked(final, unranked)
            for head in ("click", "purchase"):
                ranked[head] = np.where(unranked, np.nan, ranked[head])
        order = np.argsort(-final, kind="stable")[:k]
        items = [
            RankedItem(
                item_id=ids[place].decode(),
                score=float(final[place]),
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

    def _same_release(
        self, model: str, version: int, inputs: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], int]:
        """What a model of one release answers, whatever label moves meanwhile: a mixed pair is refused."""
        try:
            return self.client.predict_version(model, inputs, version=version, deadline=self._deadline)
        except ServingError as error:
            if error.code != grpc.StatusCode.NOT_FOUND:
                raise
            raise ServingError(
                grpc.StatusCode.ABORTED,
                f"retrieval answered from release {version}, of which {model} is not served ({error.message}); ask again, "
                f"and serve whole releases: see `python -m pipeline release list`",
            ) from None

    def explain(
        self,
        user_id: str,
        item_ids: Sequence[str],
        *,
        recent_item_ids: Sequence[str] = (),
        retrieval_scores: Sequence[float] | None = None,
        retrieval_ranks: Sequence[int] | None = None,
        candidates: int = 200,
        timestamp: int | None = None,
        retrieval_model: str = "retrieval",
        ranking_model: str = "ranking",
    ) -> list[Explanation]:
        """Why some items score as they do for a user, in the order of the items; without those the model does not know.

        Args:
            user_id, recent_item_ids, timestamp, retrieval_model, ranking_model: as in the recommendation.
            retrieval_scores, retrieval_ranks: of each item, as the recommendation answered them. Without them the items
                are looked up among `candidates` retrieved anew; one that is not there counts as the last of them would.

        Raises:
            ValueError: no items, or scores and ranks of other items.
            ServingError: what the server answered; an INVALID_ARGUMENT where the release explains nothing.
        """
        return explain(
            self.client,
            user_id,
            item_ids,
            recent_item_ids=recent_item_ids,
            retrieval_scores=retrieval_scores,
            retrieval_ranks=retrieval_ranks,
            candidates=candidates,
            timestamp=timestamp,
            retrieval_model=retrieval_model,
            ranking_model=ranking_model,
            label=self._label,
            deadline=self._deadline,
        )

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        exclude_item_ids: Sequence[str] = (),
        search_model: str = "search",
        added: AddedItems | None = None,
    ) -> list[FoundItem]:
        """The k items that a typed question asks for, best first; none for a question without words.

        Args:
            added: items younger than the release, which are found beside its own.

        Raises:
            ValueError: k below 1.
            ServingError: what the server answered; NOT_FOUND where the release has no search.
        """
        if k < 1:
            raise ValueError(f"k: must be at least 1, got {k}")
        inputs = {
            "query": np.array([query], object),
            "exclude_item_ids": _strings(exclude_item_ids),
            "k": np.array(k, np.int32),
        }
        answer, version = self.client.predict_version(search_model, inputs, label=self._label, deadline=self._deadline)
        keep = answer["item_ids"][0] != b""
        ids, scores = answer["item_ids"][0][keep], answer["scores"][0][keep]
        if added is not None:
            asked = answer["query"][0] if "query" in answer else None
            ids, scores = added.merge(asked, ids, scores, k, version, excluded=set(exclude_item_ids), search=True)
        return [FoundItem(item_id.decode(), float(score)) for item_id, score in zip(ids, scores, strict=True)]

    def similar(
        self,
        item: str | np.ndarray,
        k: int = 10,
        *,
        exclude_item_ids: Sequence[str] = (),
        retrieval_model: str = "retrieval",
        added: AddedItems | None = None,
    ) -> SimilarItems:
        """The k items nearest to one, by its id or by its embedding; see `serving.client_added.similar`."""
        return similar(
            self.client,
            item,
            k,
            exclude_item_ids=exclude_item_ids,
            added=added,
            retrieval_model=retrieval_model,
            label=self._label,
            deadline=self._deadline,
        )

    def place_in_search(self, encoded: EncodedItems, *, search_model: str = "search") -> np.ndarray | None:
        """Where encoded items lie beside the search's table; see `serving.client_added.place_in_search`."""
        return place_in_search(self.client, encoded, search_model=search_model, deadline=self._deadline)

    def known_items(self, item_ids: Sequence[str], *, ranking_model: str = "ranking") -> tuple[list[bool], int]:
        """Which ids the release holds, and its version; see `serving.client_added.known_items`."""
        return known_items(
            self.client, item_ids, UNKNOWN_SCORE, ranking_model=ranking_model, label=self._label, deadline=self._deadline
        )

    def encode_items(
        self, items: Sequence[NewItem], *, encoder_model: str = "item_encoder", deadline: float | None = None
    ) -> EncodedItems:
        """Embeddings of items by their content alone, seconds after they appear.

        Args:
            deadline: seconds for the call, which reads pictures and sound; None = as for any other.

        Raises:
            ValueError: no items.
            ServingError: what the server answered; NOT_FOUND where the release takes no raw items.
        """
        if not items:
            raise ValueError("items: need at least one, got none")
        answer, version = self.client.predict_version(
            encoder_model, item_inputs(items), label=self._label, deadline=deadline or self._deadline
        )
        vectors = {name.removesuffix("_vector"): answer[name] for name in answer if name.endswith("_vector")}
        return EncodedItems(answer["embedding"], answer["present"], vectors, version)
