"""The gateway's route for the reasons of a recommendation: `/v1/explain`."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.client.explanation import Explanation
from serving.gateway.catalogue import item_reply
from serving.gateway.errors import shown
from serving.gateway.messages import ErrorReply, ItemReply, RecommendRequest
from serving.gateway.parts import GatewayParts
from serving.gateway.recommend import pairs, recent_items, request_time
from serving.request_fields import MAX_CANDIDATES, MAX_CONTEXT, MAX_PROFILE, MAX_RECENT, Id, ItemId, Pair
from serving.status import ServingError


class ExplainRequest(BaseModel):
    """Whose item is to be explained. Score and rank of its retrieval stand in the recommendation; without them the item
    is retrieved anew.

    Example:
        >>> ExplainRequest(user="u1", item="i1").candidates
        200
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    user: Id = Field("", description="Whom the item was recommended to; any string.")
    item: ItemId = Field(description="The item.")
    session_id: Id = Field("", description="As in the recommendation.")
    recent_item_ids: list[ItemId] = Field([], max_length=MAX_RECENT, description="As in the recommendation.")
    retrieval_score: float | None = Field(None, allow_inf_nan=False, description="As the recommendation answered it.")
    retrieval_rank: int | None = Field(None, ge=1, le=MAX_CANDIDATES, description="As the recommendation answered it.")
    context: list[Pair] = Field([], max_length=MAX_CONTEXT, description="As in the recommendation.")
    profile: list[Pair] = Field([], max_length=MAX_PROFILE, description="As in the recommendation.")
    candidates: int = Field(200, ge=1, le=MAX_CANDIDATES, description="How many items are retrieved to find it again.")
    timestamp: int | None = Field(None, ge=0, lt=2**40, description="Time of the request in UTC seconds; null = now.")

    @model_validator(mode="after")
    def _score_and_rank_belong_together(self) -> ExplainRequest:
        if (self.retrieval_score is None) != (self.retrieval_rank is None):
            raise ValueError(
                f"retrieval_score, retrieval_rank: give both or neither, received {self.retrieval_score} and "
                f"{self.retrieval_rank}"
            )
        return self


class GroupReply(BaseModel):
    """One reason: a group of features, in words, with its part in the score."""

    group: str
    words: str
    contribution: float = Field(description="By how much the score falls without it; negative = it speaks against.")
    share: float = Field(description="Signed; the shares of an item sum to 1 in absolute value.")


class LikeReply(BaseModel):
    """The item of the history that is most like the explained one in one modality."""

    modality: str
    words: str
    item: ItemReply
    cosine: float


class ExplainReply(BaseModel):
    """Why an item scores as it does: reasons from the strongest for it to the strongest against it."""

    user_id: str
    known_user: bool
    item: ItemReply
    score: float
    retrieved: bool = Field(description="False when the item was not among the candidates: its rank is then unknown.")
    groups: list[GroupReply]
    like: list[LikeReply]
    seconds: dict[str, float]


def add_explain_route(app: FastAPI, parts: GatewayParts) -> None:
    """`/v1/explain`; 404 for an item that is not known, 503 while the models do not answer."""
    refusals: dict[int | str, dict[str, object]] = {404: {"model": ErrorReply}, 503: {"model": ErrorReply}}

    @app.get("/v1/explain", summary="Why an item is recommended to a user", responses=refusals)
    def explain(request: Annotated[ExplainRequest, Query()]) -> ExplainReply:
        settings, catalogue = parts.settings, parts.catalogue
        started = time.perf_counter()
        parts.note_user(request.user)
        if catalogue.item(request.item) is None:
            raise HTTPException(404, f"item: must be in the catalogue, received {shown(request.item)}")
        timestamp = request_time(parts, request.timestamp)
        score, rank = request.retrieval_score, request.retrieval_rank
        # What happened just now counts as it does in a recommendation.
        asked = RecommendRequest(
            user_id=request.user, session_id=request.session_id, recent_item_ids=request.recent_item_ids
        )
        recent = recent_items(asked, parts.session(asked.user_id, asked.session_id), catalogue)
        try:
            found = parts.recommender.explain(
                request.user,
                [request.item],
                recent_item_ids=recent,
                retrieval_scores=None if score is None else [score],
                retrieval_ranks=None if rank is None else [rank],
                candidates=request.candidates,
                timestamp=timestamp,
                context=dict(pairs(request.context)),
                profile=dict(pairs(request.profile)),
                retrieval_model=settings.retrieval_model,
                ranking_model=settings.ranking_model,
            )
        except ServingError as error:
            # A reason that stands in for the model's would be made up, so there is no fallback here.
            raise HTTPException(503, f"the model server did not explain ({error.code.name}); try again later") from error
        if not found:
            raise HTTPException(404, f"item: must be in the served release, received {shown(request.item)}")
        seconds = time.perf_counter() - started
        parts.metrics.seconds.labels("explain").observe(seconds)
        return reply(parts, request, found[0], seconds)


def reply(parts: GatewayParts, request: ExplainRequest, found: Explanation, seconds: float) -> ExplainReply:
    """An explanation with titles and covers."""
    catalogue = parts.catalogue
    return ExplainReply(
        user_id=request.user,
        known_user=catalogue.knows_user(request.user),
        item=item_reply(catalogue, found.item_id),
        score=found.score,
        retrieved=found.retrieved,
        groups=[
            GroupReply(group=each.group, words=each.words, contribution=each.contribution, share=each.share)
            for each in found.groups
        ],
        like=[
            LikeReply(
                modality=each.modality, words=each.words, item=item_reply(catalogue, each.item_id), cosine=each.cosine
            )
            for each in found.like
        ],
        seconds={"total": round(seconds, 6)},
    )
