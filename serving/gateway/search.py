"""The gateway's other ways to items: by typed words, and by likeness to an item."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from serving.gateway.catalogue import item_reply
from serving.gateway.errors import shown
from serving.gateway.messages import ErrorReply, ItemReply
from serving.gateway.parts import GatewayParts
from serving.json_log import FIELDS, note
from serving.request_fields import MAX_EXCLUDED, MAX_K, ItemId
from serving.status import ServingError

logger = logging.getLogger(__name__)

MAX_QUERY = 500


class SearchRequest(BaseModel):
    """Words to look for, in any language that the release's text encoder reads."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"query": "slow piano at night", "k": 5}]}
    )

    query: str = Field(max_length=MAX_QUERY, description="A question without words finds nothing.")
    k: int = Field(10, ge=1, le=MAX_K)
    exclude_item_ids: list[ItemId] = Field([], max_length=MAX_EXCLUDED)


class SimilarRequest(BaseModel):
    """An item whose like is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"item_id": "r00007", "k": 5}]})

    item_id: ItemId = Field(description="An item of the catalogue, added ones included.")
    k: int = Field(10, ge=1, le=MAX_K)
    exclude_item_ids: list[ItemId] = Field([], max_length=MAX_EXCLUDED)


class FoundReply(BaseModel):
    rank: int
    item: ItemReply
    score: float | None = Field(None, description="Comparable within one answer; null when popular items stand in.")


class FoundItemsReply(BaseModel):
    """Items, best first."""

    fallback: bool = Field(description="True when popular items stand in because the model server did not answer.")
    fallback_reason: str | None = None
    items: list[FoundReply]
    seconds: dict[str, float]


def add_search_routes(app: FastAPI, parts: GatewayParts) -> None:
    """`/v1/search` and `/v1/similar`, each by query or by body."""

    @app.get("/v1/search", summary="Items that words ask for")
    def search(request: Annotated[SearchRequest, Query()]) -> FoundItemsReply:
        return _search(parts, request)

    @app.post("/v1/search", summary="Items that words ask for")
    def search_by_body(request: SearchRequest) -> FoundItemsReply:
        return _search(parts, request)

    refusal: dict[int | str, dict[str, object]] = {404: {"model": ErrorReply}}

    @app.get("/v1/similar", summary="Items like an item", responses=refusal)
    def similar(request: Annotated[SimilarRequest, Query()]) -> FoundItemsReply:
        return _similar(parts, request)

    @app.post("/v1/similar", summary="Items like an item", responses=refusal)
    def similar_by_body(request: SimilarRequest) -> FoundItemsReply:
        return _similar(parts, request)


def _search(parts: GatewayParts, request: SearchRequest) -> FoundItemsReply:
    started = time.perf_counter()
    added = parts.live.snapshot()
    try:
        found = parts.recommender.search(
            request.query,
            request.k,
            exclude_item_ids=request.exclude_item_ids,
            search_model=parts.settings.search_model,
            added=added,
        )
    except ServingError as error:
        return popular_items(parts, "search", error, request.k, request.exclude_item_ids, started)
    return found_items(parts, "search", [(item.item_id, item.score) for item in found], started)


def _similar(parts: GatewayParts, request: SimilarRequest) -> FoundItemsReply:
    """By id where the release holds the item as it is now, else by the embedding of its content."""
    started = time.perf_counter()
    if parts.catalogue.item(request.item_id) is None:
        raise HTTPException(404, f"item_id: must be in the catalogue, received {shown(request.item_id)}")
    added = parts.live.snapshot()
    item: str | np.ndarray = request.item_id
    if added and request.item_id in added.ids:
        item = added.embeddings[added.ids.index(request.item_id)]
    try:
        found = parts.recommender.similar(
            item,
            request.k,
            exclude_item_ids=[*request.exclude_item_ids, request.item_id],
            retrieval_model=parts.settings.retrieval_model,
            added=added,
        )
    except ServingError as error:
        unwanted = [*request.exclude_item_ids, request.item_id]
        return popular_items(parts, "similar", error, request.k, unwanted, started)
    parts.release.seen({parts.settings.retrieval_model: found.version})
    return found_items(parts, "similar", list(zip(found.item_ids, found.scores, strict=True)), started)


def found_items(
    parts: GatewayParts,
    stage: str,
    found: Sequence[tuple[str, float | None]],
    started: float,
    reason: str | None = None,
) -> FoundItemsReply:
    """The reply of a stage, which is timed from `started`; a reason says that these are popular items. What has been deleted
    is left out, whatever release found it."""
    kept = [(item_id, score) for item_id, score in found if not parts.catalogue.is_deleted(item_id)]
    items = [
        FoundReply(rank=rank, item=item_reply(parts.catalogue, item_id), score=score)
        for rank, (item_id, score) in enumerate(kept, start=1)
    ]
    seconds = round(time.perf_counter() - started, 6)
    parts.metrics.seconds.labels(stage).observe(seconds)
    note(fallback=reason, items=len(items))
    return FoundItemsReply(fallback=reason is not None, fallback_reason=reason, items=items, seconds={"total": seconds})


def popular_items(
    parts: GatewayParts, stage: str, error: ServingError, k: int, unwanted: Sequence[str], started: float
) -> FoundItemsReply:
    """Popular items in place of what the model server was asked for."""
    reason = error.code.name
    logger.warning("popular items answered", extra={FIELDS: {"code": reason}})
    parts.metrics.fallbacks.labels(stage, reason).inc()
    return found_items(parts, stage, [(item_id, None) for item_id in parts.catalogue.popular(k, unwanted)], started, reason)
