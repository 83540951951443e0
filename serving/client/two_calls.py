"""The client's two calls, retrieval and ranking, of one release."""

from __future__ import annotations

import time
from collections.abc import Mapping

import grpc
import numpy as np

from ranking.config import HEADS
from serving.client.added_items import fill_unranked, found_items
from serving.client.model_client import ModelClient
from serving.client.page_request import PageRequest
from serving.client.recommendation import RankedItem, Recommendation
from serving.status import ServingError

UNKNOWN_SCORE = -1.0
"""What `ranking` answers for a candidate that it does not know."""


class TwoCalls:
    """Retrieves candidates, then ranks them: what any release can do, whichever index is asked.

    Args:
        client, label, deadline: as of `serving.client.recommender.Recommender`.
    """

    def __init__(self, client: ModelClient, *, label: str | None = None, deadline: float | None = None) -> None:
        self.client, self._label, self._deadline = client, label, deadline

    def recommend(self, request: PageRequest) -> Recommendation:
        """At most k items by ranking score, equals in retrieval order; see `Recommender.recommend`.

        Raises:
            ServingError: what the server answered; ABORTED where it serves no ranking of the release that retrieved.
        """
        added = request.added
        started = time.perf_counter()
        retrieved, retrieval_version = self.client.predict_version(
            request.retrieval_model, request.retrieval_inputs(), label=self._label, deadline=self._deadline
        )
        middle = time.perf_counter()
        never = {*request.exclude_item_ids, *request.recent_item_ids}
        ids, scores = found_items(retrieved, request.candidates, retrieval_version, added, excluded=never)
        seconds = {"retrieval": middle - started, "ranking": 0.0}
        if not len(ids):
            return Recommendation(request.user_id, [], seconds, {request.retrieval_model: retrieval_version})
        ranked, ranking_version = self._same_release(
            request.ranking_model, retrieval_version, request.ranking_inputs(ids[None, :], scores)
        )
        seconds["ranking"] = time.perf_counter() - middle
        final = ranked["score"][0]
        unranked = np.zeros(len(ids), bool) if added is None else added.unranked(ids, final, UNKNOWN_SCORE)
        if unranked.any():
            final = fill_unranked(final, unranked)
            for head in set(HEADS) & set(ranked):
                ranked[head] = np.where(unranked, np.nan, ranked[head])
        order = np.argsort(-final, kind="stable")[: request.k]
        items = [
            RankedItem(
                item_id=ids[place].decode(),
                score=float(final[place]),
                click=float(ranked["click"][0, place]),
                purchase=float(ranked["purchase"][0, place]),
                retrieval_score=float(scores[place]),
                retrieval_rank=int(place) + 1,
                heads={head: float(ranked[head][0, place]) for head in HEADS if head in ranked},
            )
            for place in order
        ]
        versions = {request.retrieval_model: retrieval_version, request.ranking_model: ranking_version}
        return Recommendation(request.user_id, items, seconds, versions)

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
