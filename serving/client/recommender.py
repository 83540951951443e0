"""Recommendation, search and the encoding of new items over a model server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from serving.client.added import SimilarItems, known_items, place_in_search, similar
from serving.client.added_items import SEARCH, AddedItems, found_items
from serving.client.explain import explain
from serving.client.explanation import Explanation
from serving.client.media import place_in_content, search_media
from serving.client.model_client import DEADLINE_SECONDS, ModelClient
from serving.client.new_items import EncodedItems, NewItem, item_inputs
from serving.client.one_call import RECOMMEND, OneCall
from serving.client.page import insert_added, reaches_page
from serving.client.page_request import PageRequest
from serving.client.recommendation import FoundItem, RankedItem, Recommendation
from serving.client.two_calls import UNKNOWN_SCORE, TwoCalls
from serving.status import ServingError
from serving.tensors import string_line

__all__ = [
    "EncodedItems", "Explanation", "FoundItem", "ModelClient", "NewItem", "RankedItem", "Recommendation", "Recommender",
]  # fmt: skip


class Recommender:
    """Recommends (retrieves candidates, then ranks them), searches and encodes new items on one model server.

    Args:
        target: "host:port" of the gRPC port, or a client to share.
        label: version label that all models are asked for, so that their releases move together; None = the highest
            version.
        deadline: seconds for each call.
        recommend_model: the model that recommends in one call; where the server has none, or "", it takes two.
    """

    def __init__(
        self,
        target: str | ModelClient,
        *,
        label: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        recommend_model: str = RECOMMEND,
    ) -> None:
        self.client = target if isinstance(target, ModelClient) else ModelClient(target, deadline=deadline)
        self._label = label
        self._deadline = deadline
        self._one_call = OneCall(self.client, model=recommend_model, label=label, deadline=deadline)
        self._two_calls = TwoCalls(self.client, label=label, deadline=deadline)

    def recommend(self, user_id: str, **options: Any) -> Recommendation:
        """The k best items for a user: in one call where the server has `recommend`, else by retrieval and ranking.

        Two calls answer without the release's policy, by score alone. They are also taken where another index is asked
        for by its name. The one call knows the items of its release only: where one of `added` might be on the page, the
        two calls say at which place, and it is put there.

        Args:
            user_id: any string. options: the other attributes of `serving.client.page_request.PageRequest`.

        Returns:
            At most k items, in the order of the page; of two calls by ranking score, equals in retrieval order.

        Raises:
            ValueError: k or candidates out of range.
            ServingError: what the server answered; ABORTED where it serves no ranking of the release that retrieved,
                FAILED_PRECONDITION where it has no `recommend` and the request needs it.
        """
        request = PageRequest(user_id, **options)
        added = request.added
        page: Recommendation | None = None
        if request.retrieval_model == "retrieval":
            page = self._one_call.recommend(request)
            never = {*request.exclude_item_ids, *request.recent_item_ids}
            if page is not None and (added is None or not reaches_page(added, page, never)):
                return page
        allowed = set(request.allow_item_ids)
        if (allowed or request.policy) and page is None:
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "allow_item_ids, policy: need a release with the model `recommend`, asked for as 'retrieval', and this "
                "server has none; export again, or leave them out",
            )
        by_score = self._two_calls.recommend(request)
        if page is None or added is None:
            return by_score
        return insert_added(page, by_score, {one for one in added.ids if not allowed or one in allowed}, request.k)

    def explain(
        self,
        user_id: str,
        item_ids: Sequence[str],
        *,
        retrieval_scores: Sequence[float] | None = None,
        retrieval_ranks: Sequence[int] | None = None,
        **options: Any,
    ) -> list[Explanation]:
        """Why some items score as they do for a user, in the order of the items; without those the model does not know.

        Args:
            user_id, options: as in the recommendation, whose score the contributions then belong to.
            retrieval_scores, retrieval_ranks: of each item, as the recommendation answered them. Without them the items
                are looked up among `candidates` retrieved anew; one that is not there counts as the last of them would.

        Raises:
            ValueError: no items, or scores and ranks of other items.
            ServingError: what the server answered; an INVALID_ARGUMENT where the release explains nothing.
        """
        return explain(
            self.client,
            PageRequest(user_id, **{**options, "k": 1}),
            item_ids,
            retrieval_scores=retrieval_scores,
            retrieval_ranks=retrieval_ranks,
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
            "exclude_item_ids": string_line([*exclude_item_ids, *(added.hidden if added else ())]),
            "k": np.array(k, np.int32),
        }
        answer, version = self.client.predict_version(search_model, inputs, label=self._label, deadline=self._deadline)
        ids, scores = found_items(answer, k, version, added, excluded=set(exclude_item_ids), space=SEARCH)
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
        """The k items nearest to one, by its id or by its embedding; see `serving.client.added.similar`."""
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

    def search_media(
        self,
        item: NewItem,
        k: int = 10,
        *,
        exclude_item_ids: Sequence[str] = (),
        encoder_model: str = "item_encoder",
        added: AddedItems | None = None,
        deadline: float | None = None,
    ) -> list[FoundItem]:
        """The k items that look like a picture or sound like a clip; see `serving.client.media.search_media`."""
        return search_media(
            self.client,
            item,
            k,
            exclude_item_ids=exclude_item_ids,
            added=added,
            encoder_model=encoder_model,
            label=self._label,
            deadline=deadline or self._deadline,
        )

    def place_in_search(self, encoded: EncodedItems, *, search_model: str = "search") -> np.ndarray | None:
        """Where encoded items lie beside the search's table; see `serving.client.added.place_in_search`."""
        return place_in_search(self.client, encoded, search_model=search_model, deadline=self._deadline)

    def place_in_content(self, encoded: EncodedItems) -> dict[str, np.ndarray]:
        """Where encoded items lie in the search by pictures and sounds; see `serving.client.media.place_in_content`."""
        return place_in_content(self.client, encoded, deadline=self._deadline)

    def known_items(self, item_ids: Sequence[str], *, ranking_model: str = "ranking") -> tuple[list[bool], int]:
        """Which ids the release holds, and its version; see `serving.client.added.known_items`."""
        return known_items(
            self.client,
            item_ids,
            UNKNOWN_SCORE,
            ranking_model=ranking_model,
            label=self._label,
            deadline=self._deadline,
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
