"""The client's one call to `recommend`, and how it knows whether a server has it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

import grpc

from ranking.config import HEADS
from serving.client.model_client import ModelClient
from serving.client.page_request import PageRequest, words_of
from serving.client.recommend_requests import recommend_inputs
from serving.client.recommendation import RankedItem, Recommendation
from serving.status import ServingError

RECOMMEND = "recommend"
ASK_AGAIN_SECONDS = 30.0
"""How long a server that has no `recommend` is not asked for it: the next release may have it."""
UNKNOWN_LABEL = "Unrecognized servable version label"
"""What a server says to a label of a model that it does not have."""


class OneCall:
    """Recommends by `recommend` where the server has it.

    Args:
        client, label, deadline: as of `Recommender`. model: its name; "" = never ask.
        clock: seconds, rising.
    """

    def __init__(
        self,
        client: ModelClient,
        *,
        model: str = RECOMMEND,
        label: str | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._model, self._label, self._deadline, self._clock = client, model, label, deadline, clock
        self._lock = threading.Lock()
        self._absent_until = 0.0

    def recommend(self, request: PageRequest) -> Recommendation | None:
        """The page; None where the server has no such model.

        `versions` also names the models that the call takes the place of, which are of the same release, so that whoever
        follows a release need not know how it was asked.

        Raises:
            ServingError: what the server answered.
        """
        with self._lock:
            if not self._model or self._clock() < self._absent_until:
                return None
        inputs = recommend_inputs(
            [request.user_id],
            k=request.k,
            candidates=request.candidates,
            recent_item_ids=[request.recent_item_ids],
            exclude_item_ids=[request.never],
            allow_item_ids=[request.allow_item_ids],
            context=[words_of(request.context)],
            profile=[words_of(request.profile)] if request.profile else (),
            policy=request.policy,
            timestamps=[request.timestamp or 0],
            seeds=[secrets.randbits(63) if request.seed is None else request.seed],
        )
        if not request.profile:  # releases from before it was an input would refuse it
            del inputs["profile"]
        started = time.perf_counter()
        try:
            answer, version = self._client.predict_version(
                self._model, inputs, label=self._label, deadline=self._deadline
            )
        except ServingError as error:
            if error.code != grpc.StatusCode.NOT_FOUND and not error.message.startswith(UNKNOWN_LABEL):
                raise
            with self._lock:
                self._absent_until = self._clock() + ASK_AGAIN_SECONDS
            return None
        items = [
            RankedItem(
                item_id=item_id.decode(),
                score=float(answer["scores"][0, place]),
                click=float(answer["click"][0, place]),
                purchase=float(answer["purchase"][0, place]),
                retrieval_score=float(answer["retrieval_scores"][0, place]),
                retrieval_rank=int(answer["retrieval_ranks"][0, place]),
                propensity=float(answer["propensities"][0, place]),
                heads={head: float(answer[head][0, place]) for head in HEADS if head in answer},
            )
            for place, item_id in enumerate(answer["item_ids"][0])
            if item_id
        ]
        versions = {name: version for name in (self._model, request.retrieval_model, request.ranking_model)}
        query = answer["query"][0] if "query" in answer else None
        return Recommendation(request.user_id, items, {self._model: time.perf_counter() - started}, versions, query)
