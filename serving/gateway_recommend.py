"""The gateway's main route: ranked items for a user, or popular ones while no model answers."""

from __future__ import annotations

import logging
import math
import time
from typing import Annotated

from fastapi import FastAPI, Query

from serving.catalogue import Catalogue
from serving.gateway_catalogue import item_reply
from serving.gateway_messages import MAX_EXCLUDED, RankedReply, RecommendReply, RecommendRequest
from serving.gateway_parts import GatewayParts
from serving.status import ServingError

logger = logging.getLogger(__name__)


def add_recommend_routes(app: FastAPI, parts: GatewayParts) -> None:
    """`/v1/recommend`, by query or by body."""

    @app.get("/v1/recommend", summary="Ranked items for a user")
    def recommend(request: Annotated[RecommendRequest, Query()]) -> RecommendReply:
        return answer(parts, request)

    @app.post("/v1/recommend", summary="Ranked items for a user")
    def recommend_by_body(request: RecommendRequest) -> RecommendReply:
        return answer(parts, request)


def answer(parts: GatewayParts, request: RecommendRequest) -> RecommendReply:
    """The reply to one request; popular items, marked as such, where the models give none."""
    settings, catalogue, metrics = parts.settings, parts.catalogue, parts.metrics
    started = time.perf_counter()
    known = catalogue.knows_user(request.user_id)
    excluded = _excluded(request, catalogue)
    timestamp = request.timestamp
    if timestamp is None and settings.clock == "log" and catalogue.last_timestamp:
        timestamp = catalogue.last_timestamp
    reason: str | None = None
    versions: dict[str, int] = {}
    try:
        recommendation = parts.recommender.recommend(
            request.user_id,
            recent_item_ids=request.recent_item_ids,
            exclude_item_ids=excluded,
            k=request.k,
            candidates=request.candidates,
            timestamp=timestamp,
            retrieval_model=settings.retrieval_model,
            ranking_model=settings.ranking_model,
        )
    except ServingError as error:
        reason = error.code.name
        logger.warning("popular items answered: the model server said %s", error)
        seconds = {"model": time.perf_counter() - started}
        with metrics.stage("fallback"):
            items = [
                RankedReply(rank=rank, item=item_reply(catalogue, item_id))
                for rank, item_id in enumerate(catalogue.popular(request.k, excluded), start=1)
            ]
    else:
        seconds, versions = dict(recommendation.seconds), dict(recommendation.versions)
        with metrics.stage("catalogue"):
            items = [
                RankedReply(
                    rank=rank,
                    item=item_reply(catalogue, ranked.item_id),
                    score=_finite(ranked.score),
                    click=_finite(ranked.click),
                    purchase=_finite(ranked.purchase),
                    retrieval_score=_finite(ranked.retrieval_score),
                    retrieval_rank=ranked.retrieval_rank,
                )
                for rank, ranked in enumerate(recommendation.items, start=1)
            ]
    seconds["total"] = time.perf_counter() - started
    for stage, value in seconds.items():
        metrics.seconds.labels(stage).observe(value)
    if reason is not None:
        metrics.fallbacks.labels(reason).inc()
    if not known:
        metrics.unknown_users.inc()
    metrics.up.set(0 if reason else 1)
    metrics.items.inc(len(items))
    return RecommendReply(
        user_id=request.user_id,
        known_user=known,
        fallback=reason is not None,
        fallback_reason=reason,
        items=items,
        seconds={stage: round(value, 6) for stage, value in seconds.items()},
        versions=versions,
    )


def _excluded(request: RecommendRequest, catalogue: Catalogue) -> list[str]:
    """What must not be answered: the request's own list, then what was just seen, then the log, newest first."""
    wanted = list(request.exclude_item_ids)
    if request.exclude_seen:
        wanted += request.recent_item_ids
        wanted += [event.item_id for event in catalogue.history(request.user_id, MAX_EXCLUDED)]
    return list(dict.fromkeys(wanted))[:MAX_EXCLUDED]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
