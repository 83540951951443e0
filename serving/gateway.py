"""The gateway: a web application between people and the model server.

It answers `/v1/recommend` by calling the model server over gRPC with a deadline, adds titles, covers and clips, and
answers popular items, marked as such, when no model does. Start it from Python:

    app = create_app(GatewaySettings(run="runs/demo", source="runs/demo/world", target="127.0.0.1:8500"))
    uvicorn.run(app, host="127.0.0.1", port=8080, log_level="warning")
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Query
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from serving.catalogue import Catalogue, media_folder
from serving.gateway_catalogue import add_catalogue_routes, add_page, item_reply
from serving.gateway_errors import add_error_replies
from serving.gateway_guard import Guard
from serving.gateway_messages import (
    MAX_EXCLUDED,
    ErrorReply,
    HealthReply,
    RankedReply,
    RecommendReply,
    RecommendRequest,
)
from serving.gateway_metrics import GatewayMetrics
from serving.status import ServingError

logger = logging.getLogger(__name__)


class GatewaySettings(BaseModel):
    """Where the gateway reads and whom it asks.

    Attributes:
        run: the run folder; names, histories and popularity come from `<run>/ingest`.
        source: the dataset folder whose `media/` is handed out; None = no media.
        target: "host:port" of the model server's gRPC port.
        label: version label that both models are asked for; None = the highest version.
        deadline_seconds: for each call to the model server.
        clock: "now" sends the wall clock with a request that names no time; "log" sends the time of the log's last
            event, which suits a demonstration on a log that ended long ago (items would all look old otherwise).
        max_body_bytes: larger request bodies are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path
    source: Path | None = None
    target: str = "127.0.0.1:8500"
    label: str | None = None
    retrieval_model: str = "retrieval"
    ranking_model: str = "ranking"
    deadline_seconds: float = Field(2.0, gt=0, le=60)
    clock: Literal["now", "log"] = "now"
    max_body_bytes: int = Field(512 * 1024, ge=1024)


class StatusClient(Protocol):
    """The part of `serving.client.ModelClient` that the health check uses."""

    def status(self, model: str) -> dict[int, str]: ...


class AnyRecommender(Protocol):
    """The part of `serving.client.Recommender` that the gateway uses."""

    @property
    def client(self) -> StatusClient: ...

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
    ) -> Any: ...


def create_app(settings: GatewaySettings, recommender: AnyRecommender | None = None) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        settings: see `GatewaySettings`.
        recommender: asked for recommendations; None = a `serving.client.Recommender` on `settings.target`.

    Raises:
        FileNotFoundError: when the run has no ingested folder.
    """
    catalogue = Catalogue(settings.run / "ingest", media_folder(settings.source))
    if recommender is None:
        # Only here, because the client's protocol messages bring TensorFlow with them.
        from serving.client import Recommender

        recommender = Recommender(settings.target, label=settings.label, deadline=settings.deadline_seconds)
    metrics = GatewayMetrics()
    # The interactive documentation pages load scripts from another host; the schema itself stays at /openapi.json.
    app = FastAPI(
        title="Triptych gateway", version="1", docs_url=None, redoc_url=None, responses={422: {"model": ErrorReply}}
    )
    app.add_middleware(Guard, metrics=metrics, max_body_bytes=settings.max_body_bytes)
    add_error_replies(app)
    add_page(app)
    add_catalogue_routes(app, catalogue)
    _add_recommend_routes(app, settings, catalogue, recommender, metrics)
    _add_monitoring_routes(app, settings, catalogue, recommender, metrics)
    return app


def _add_recommend_routes(
    app: FastAPI,
    settings: GatewaySettings,
    catalogue: Catalogue,
    recommender: AnyRecommender,
    metrics: GatewayMetrics,
) -> None:
    def answer(request: RecommendRequest) -> RecommendReply:
        started = time.perf_counter()
        known = catalogue.knows_user(request.user_id)
        excluded = _excluded(request, catalogue)
        timestamp = request.timestamp
        if timestamp is None and settings.clock == "log" and catalogue.last_timestamp:
            timestamp = catalogue.last_timestamp
        reason: str | None = None
        versions: dict[str, int] = {}
        try:
            recommendation = recommender.recommend(
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

    @app.get("/v1/recommend", summary="Ranked items for a user")
    def recommend(request: Annotated[RecommendRequest, Query()]) -> RecommendReply:
        return answer(request)

    @app.post("/v1/recommend", summary="Ranked items for a user")
    def recommend_by_body(request: RecommendRequest) -> RecommendReply:
        return answer(request)


def _add_monitoring_routes(
    app: FastAPI,
    settings: GatewaySettings,
    catalogue: Catalogue,
    recommender: AnyRecommender,
    metrics: GatewayMetrics,
) -> None:
    @app.get("/healthz", summary="Whether the models answer")
    def healthz() -> HealthReply:
        """Answers 200 also when degraded: popular items are still served, and a restart would not help the models."""
        models: dict[str, dict[str, str]] = {}
        problem: str | None = None
        for name in (settings.retrieval_model, settings.ranking_model):
            try:
                models[name] = {str(version): state for version, state in recommender.client.status(name).items()}
            except ServingError as error:
                models[name] = {}
                problem = problem or error.code.name
        ready = all("AVAILABLE" in states.values() for states in models.values())
        return HealthReply(
            status="ok" if ready else "degraded",
            models=models,
            error=problem,
            items=catalogue.item_count,
            users=catalogue.user_count,
        )

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def prometheus() -> Response:
        return Response(metrics.expose(), media_type=CONTENT_TYPE_LATEST)


def _excluded(request: RecommendRequest, catalogue: Catalogue) -> list[str]:
    """What must not be answered: the request's own list, then what was just seen, then the log, newest first."""
    wanted = list(request.exclude_item_ids)
    if request.exclude_seen:
        wanted += request.recent_item_ids
        wanted += [event.item_id for event in catalogue.history(request.user_id, MAX_EXCLUDED)]
    return list(dict.fromkeys(wanted))[:MAX_EXCLUDED]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
