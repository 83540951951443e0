"""The gateway's main route: ranked items for a user, or popular ones while no model answers."""

from __future__ import annotations

import logging
import math
import time
from typing import Annotated, Any

import grpc
from fastapi import FastAPI, Query

from serving.catalogue.live_catalogue import LiveCatalogue
from serving.gateway.catalogue import item_reply
from serving.gateway.messages import RankedReply, RecommendReply, RecommendRequest
from serving.gateway.parts import GatewayParts, owners
from serving.gateway.session import Session
from serving.json_log import FIELDS, note
from serving.request_fields import MAX_EXCLUDED
from serving.status import ServingError

logger = logging.getLogger(__name__)

NO_ITEM = "\n"
"""An id that no catalogue has: ids are of one line."""
MAX_HISTORY = 500
"""Items of a history that is sent because it begins with what happened just now."""


def add_recommend_routes(app: FastAPI, parts: GatewayParts) -> None:
    """`/v1/recommend`, by query or by body."""

    @app.get("/v1/recommend", summary="Ranked items for a user")
    def recommend(request: Annotated[RecommendRequest, Query()]) -> RecommendReply:
        return answer(parts, request)

    @app.post("/v1/recommend", summary="Ranked items for a user")
    def recommend_by_body(request: RecommendRequest) -> RecommendReply:
        return answer(parts, request)


def answer(parts: GatewayParts, request: RecommendRequest) -> RecommendReply:
    """The reply to one request: one kept from before while it is still true, or a new one."""
    started = time.perf_counter()
    parts.note_user(request.user_id)
    whose, key = owners(request.user_id, request.session_id), request.model_dump_json()
    stamp = parts.cache.begin()
    reply = parts.cache.get(key, whose)
    if reply is None:
        parts.metrics.cached.labels("miss").inc()
        reply = _new_answer(parts, request, started)
        if not reply.fallback and parts.release.follows(reply.versions):  # what a late server says is soon untrue
            parts.cache.put(key, whose, stamp, reply)
    else:
        parts.metrics.cached.labels("hit").inc()
        seconds = round(time.perf_counter() - started, 6)
        parts.metrics.seconds.labels("cached").observe(seconds)
        reply = reply.model_copy(update={"cached": True, "seconds": {"total": seconds}})
    if not reply.known_user:
        parts.metrics.unknown_users.inc()
    parts.metrics.items.inc(len(reply.items))
    parts.coverage.observe([entry.item.item_id for entry in reply.items])
    parts.drift.observe(entry.score for entry in reply.items if entry.score is not None)
    note(fallback=reply.fallback_reason, cached=reply.cached, items=len(reply.items))
    return reply


def request_time(parts: GatewayParts, said: int | None) -> int | None:
    """The time that models are told: what a request says, else that of the log's end or None, the wall clock's, by the setting.

    A log without times ends at 0, unknown, and models that never saw a time are told none whatever the clock.
    """
    if said is None and (parts.settings.clock == "log" or not parts.catalogue.last_timestamp):
        return parts.catalogue.last_timestamp
    return said


def _new_answer(parts: GatewayParts, request: RecommendRequest, started: float) -> RecommendReply:
    """Asks the models; popular items, marked as such, where they give no answer."""
    settings, catalogue, metrics = parts.settings, parts.catalogue, parts.metrics
    session = parts.session(request.user_id, request.session_id)
    added = parts.live.snapshot()
    excluded = _excluded(request, session, catalogue)
    allowed = _allowed(request, catalogue)
    timestamp = request_time(parts, request.timestamp)
    reason: str | None = None
    versions: dict[str, int] = {}
    try:
        recommendation = _ask(
            parts,
            request.user_id,
            recent_item_ids=recent_items(request, session, catalogue),
            exclude_item_ids=excluded,
            added=added,
            k=request.k,
            candidates=request.candidates,
            timestamp=timestamp,
            retrieval_model=settings.retrieval_model,
            ranking_model=settings.ranking_model,
            allow_item_ids=allowed,
            policy={name: float(value) for name, value in pairs(request.policy)},
            context=dict(pairs(request.context)),
            profile=dict(pairs(request.profile)),
        )
    except ServingError as error:
        reason = error.code.name
        logger.warning("popular items answered", extra={FIELDS: {"code": reason}})
        seconds = {"model": time.perf_counter() - started}
        with metrics.stage("fallback"):
            items = [
                RankedReply(rank=rank, item=item_reply(catalogue, item_id))
                for rank, item_id in enumerate(catalogue.popular(request.k, excluded, allowed or None), start=1)
            ]
    else:
        seconds, versions = dict(recommendation.seconds), dict(recommendation.versions)
        parts.release.seen(versions)
        with metrics.stage("catalogue"):
            # Of a server that is late, or from before it was deleted: it does not go along with every request for ever.
            kept = [ranked for ranked in recommendation.items if not catalogue.is_deleted(ranked.item_id)]
            items = [
                RankedReply(
                    rank=rank,
                    item=item_reply(catalogue, ranked.item_id),
                    score=_finite(ranked.score),
                    click=_finite(ranked.click),
                    purchase=_finite(ranked.purchase),
                    heads={head: _finite(value) for head, value in ranked.heads.items()},
                    propensity=ranked.propensity,
                    retrieval_score=_finite(ranked.retrieval_score),
                    retrieval_rank=ranked.retrieval_rank,
                )
                for rank, ranked in enumerate(kept, start=1)
            ]
    seconds["total"] = time.perf_counter() - started
    for stage, value in seconds.items():
        metrics.seconds.labels(stage).observe(value)
    if reason is not None:
        metrics.fallbacks.labels("recommend", reason).inc()
    metrics.up.set(0 if reason else 1)
    return RecommendReply(
        user_id=request.user_id,
        known_user=catalogue.knows_user(request.user_id),
        fallback=reason is not None,
        fallback_reason=reason,
        items=items,
        seconds={stage: round(value, 6) for stage, value in seconds.items()},
        versions=versions,
    )


def _allowed(request: RecommendRequest, catalogue: LiveCatalogue) -> list[str]:
    """The only items that may be answered: of the request's list and of its domain; empty = all. A domain without items is
    a list of no item's id, since an empty one would allow everything."""
    if not request.domain:
        return request.allow_item_ids
    ids = catalogue.domains.get(request.domain, ())
    listed = set(request.allow_item_ids)
    return [one for one in ids if not listed or one in listed] or [NO_ITEM]


def pairs(texts: list[str]) -> list[tuple[str, str]]:
    """"name=value" as (name, value)."""
    return [(name, value) for name, _, value in (text.partition("=") for text in texts)]


def _ask(parts: GatewayParts, user_id: str, **options: Any) -> Any:
    """The recommendation; asked for once more where the release changed between retrieval and ranking."""
    try:
        return parts.recommender.recommend(user_id, **options)
    except ServingError as error:
        if error.code != grpc.StatusCode.ABORTED:
            raise
        return parts.recommender.recommend(user_id, **options)


def recent_items(request: RecommendRequest, session: Session, catalogue: LiveCatalogue) -> list[str]:
    """What happened just now, before what the request or else the log tells; the request's own where nothing did.

    A request without recent items leaves the history to the model, which has the whole of it; but recent items that are
    sent replace that, so the log's follow behind those of the session.
    """
    if not session.positive:
        return [item_id for item_id in request.recent_item_ids if item_id not in session.skipped]
    before: list[str] = list(request.recent_item_ids)
    if not before:
        before = [event.item_id for event in catalogue.history(request.user_id, MAX_HISTORY) if event.positive]
    wanted = dict.fromkeys((*session.positive, *before))
    return [item_id for item_id in wanted if item_id not in session.skipped][:MAX_HISTORY]


def _excluded(request: RecommendRequest, session: Session, catalogue: LiveCatalogue) -> list[str]:
    """What must not be answered: the request's own list, what was just skipped, what was just seen, then the log, newest
    first."""
    wanted = [*request.exclude_item_ids, *session.skipped]
    if request.exclude_seen:
        wanted += (*session.positive, *request.recent_item_ids)
        wanted += [event.item_id for event in catalogue.history(request.user_id, MAX_EXCLUDED)]
    return list(dict.fromkeys(wanted))[:MAX_EXCLUDED]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
