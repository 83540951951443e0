"""The gateway: a web application between people and the model server.

It answers `/v1/recommend` by calling the model server over gRPC with a deadline, adds titles, covers and clips, and
answers popular items, marked as such, when no model does. Start it from Python:

    app = create_app(GatewaySettings(run="runs/demo", source="runs/demo/world", target="127.0.0.1:8500"))
    uvicorn.run(app, host="127.0.0.1", port=8080, log_level="warning")
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from serving.catalogue import MEDIA_TYPES, Catalogue, media_folder
from serving.gateway_guard import Guard
from serving.gateway_messages import (
    MAX_EXCLUDED,
    ErrorReply,
    HealthReply,
    HistoryEntry,
    HistoryReply,
    ItemReply,
    RankedReply,
    RecommendReply,
    RecommendRequest,
    UserReply,
    UsersReply,
)
from serving.gateway_metrics import GatewayMetrics
from serving.status import ServingError

logger = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")


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
    _add_error_replies(app)
    _add_page(app)
    _add_catalogue_routes(app, catalogue)
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
                    RankedReply(rank=rank, item=_item_reply(catalogue, item_id))
                    for rank, item_id in enumerate(catalogue.popular(request.k, excluded), start=1)
                ]
        else:
            seconds, versions = dict(recommendation.seconds), dict(recommendation.versions)
            with metrics.stage("catalogue"):
                items = [
                    RankedReply(
                        rank=rank,
                        item=_item_reply(catalogue, ranked.item_id),
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


def _add_catalogue_routes(app: FastAPI, catalogue: Catalogue) -> None:
    @app.get("/v1/items/{item_id:path}", summary="One item", responses={404: {"model": ErrorReply}})
    def item(item_id: str) -> ItemReply:
        if catalogue.item(item_id) is None:
            raise HTTPException(404, f"item_id: must be in the catalogue, received {_shown(item_id)}")
        return _item_reply(catalogue, item_id)

    @app.get("/v1/users", summary="A few users to look at")
    def users(count: Annotated[int, Query(ge=1, le=50)] = 8) -> UsersReply:
        return UsersReply(
            users=[
                UserReply(user_id=name, events=catalogue.event_count(name), profile=catalogue.profile(name))
                for name in catalogue.example_users(count)
            ]
        )

    @app.get("/v1/history/{user_id:path}", summary="What a user did, most recent first")
    def history(user_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> HistoryReply:
        return HistoryReply(
            user_id=user_id,
            known_user=catalogue.knows_user(user_id),
            events=[
                HistoryEntry(
                    item=_item_reply(catalogue, event.item_id),
                    event=event.kind,
                    timestamp=event.timestamp or None,
                    positive=event.positive,
                )
                for event in catalogue.history(user_id, limit)
            ],
        )

    @app.api_route(
        "/media/{path:path}", methods=["GET", "HEAD"], summary="A cover or a clip", response_class=FileResponse,
        responses={404: {"model": ErrorReply}},
    )  # fmt: skip
    def media(path: str) -> FileResponse:
        file = catalogue.media_file(path)
        if file is None:
            raise HTTPException(404, "path: must be a media file of the catalogue")
        return FileResponse(
            file,
            media_type=MEDIA_TYPES[Path(path).suffix.lower()],
            headers={"Cache-Control": "public, max-age=3600"},
        )


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


def _add_page(app: FastAPI) -> None:
    page = PAGE.read_text(encoding="utf-8")
    hashes = {tag: _inline_hash(page, tag) for tag in ("script", "style")}
    policy = (
        "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
        f"script-src {hashes['script']}; style-src {hashes['style']}; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


def _add_error_replies(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [_rule_text(problem) for problem in error.errors()[:20]]
        return JSONResponse(ErrorReply(error=details[0], details=details).model_dump(), status_code=422)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse(
            ErrorReply(error=str(error.detail)).model_dump(), status_code=error.status_code, headers=error.headers
        )

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(ErrorReply(error="the gateway failed; its log has the cause").model_dump(), status_code=500)


def _rule_text(problem: dict[str, Any]) -> str:
    """One broken rule as "field: rule, received value"."""
    where = ".".join(str(part) for part in problem["loc"][1:])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not where:  # a rule over several fields names them itself; a body that is no JSON has none
        return message if problem["type"] == "value_error" else f"body: {message}"
    if problem["type"] == "extra_forbidden":
        return f"{where}: must be one of {', '.join(RecommendRequest.model_fields)}"
    return f"{where}: {message[:1].lower()}{message[1:]}, received {_shown(problem.get('input'))}"


def _shown(value: Any) -> str:
    """A value as it may stand in an error: ASCII and short, whatever was sent."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _excluded(request: RecommendRequest, catalogue: Catalogue) -> list[str]:
    """What must not be answered: the request's own list, then what was just seen, then the log, newest first."""
    wanted = list(request.exclude_item_ids)
    if request.exclude_seen:
        wanted += request.recent_item_ids
        wanted += [event.item_id for event in catalogue.history(request.user_id, MAX_EXCLUDED)]
    return list(dict.fromkeys(wanted))[:MAX_EXCLUDED]


def _item_reply(catalogue: Catalogue, item_id: str) -> ItemReply:
    """The item's metadata; only its id when the catalogue is older than the model that named it."""
    item = catalogue.item(item_id)
    if item is None:
        return ItemReply(
            item_id=item_id, title="", description="", categories="", price=None, created=None, domain="",
            image=None, audio=None, video=None,
        )  # fmt: skip
    return ItemReply(**item.as_json())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _inline_hash(page: str, tag: str) -> str:
    """The Content-Security-Policy source of the page's one inline <tag>: only that very text may run."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    if len(parts) != 1:
        raise ValueError(f"page.html: must have one <{tag}> element, found {len(parts)}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(parts[0].encode()).digest()).decode()}'"
