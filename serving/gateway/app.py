"""The gateway: a web application between people and the model server.

It answers `/v1/recommend` by calling the model server over gRPC with a deadline, adds titles, covers and clips, and
answers popular items, marked as such, when no model does. `python -m serving.gateway_server` runs it; from Python:

    app = create_app(GatewaySettings(run="runs/demo", source="runs/demo/world", target="127.0.0.1:8500"))
    uvicorn.run(app, host="127.0.0.1", port=8080, log_level="warning")
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import FastAPI

from serving.catalogue.catalogue import media_folder
from serving.catalogue.live_catalogue import LiveCatalogue
from serving.catalogue.live_items import LiveItems
from serving.catalogue.live_items_log import LiveItemsLog
from serving.catalogue.live_items_place import Placing
from serving.catalogue.released_run import answering_label, answering_version
from serving.client.circuit_breaker import CircuitBreaker
from serving.feedback.log import FeedbackLog
from serving.gateway.access import Access
from serving.gateway.cache import AnswerCache
from serving.gateway.catalogue import add_catalogue_routes
from serving.gateway.drift import Coverage, ScoreDrift
from serving.gateway.errors import add_error_replies
from serving.gateway.explain import add_explain_route
from serving.gateway.feedback import add_feedback_route
from serving.gateway.guard import Guard
from serving.gateway.items import add_item_routes
from serving.gateway.keys import KeyRing
from serving.gateway.messages import ErrorReply
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.monitoring import add_monitoring_routes
from serving.gateway.openapi import describe_security
from serving.gateway.pages import add_pages
from serving.gateway.parts import GatewayParts
from serving.gateway.recommend import add_recommend_routes
from serving.gateway.release import ReleaseWatch
from serving.gateway.search import add_search_routes
from serving.gateway.search_media import add_media_search_route
from serving.gateway.session import Sessions
from serving.gateway.settings import GatewaySettings
from serving.json_log import UserHash
from serving.releases.release import list_releases
from serving.status import ServingError

if TYPE_CHECKING:  # its protocol messages bring TensorFlow with them
    from serving.client.recommender import Recommender

__all__ = ["GatewaySettings", "create_app"]

logger = logging.getLogger(__name__)


def create_app(settings: GatewaySettings, recommender: Recommender | None = None) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        settings: see `GatewaySettings`.
        recommender: asked for recommendations; None = a `serving.client.recommender.Recommender` on `settings.target`,
            with hedged calls and circuit breakers.

    Raises:
        FileNotFoundError: when the run has no ingested folder.
        ValueError: a file of keys, of a salt or of reference scores that cannot be used.
    """
    metrics = GatewayMetrics()
    access = Access(
        None if settings.keys is None else KeyRing(settings.keys), settings.requests_per_second, settings.burst
    )
    settings = settings.model_copy(update={"label": answering_label(settings.run, settings.label)})
    if settings.label is None and len(list_releases(settings.run / "releases")) > 1:
        logger.warning("no label: the highest version answers, a canary too; promote a release, then start the gateway again")
    parts = _make_parts(settings, recommender or _make_recommender(settings, metrics), metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        parts.release.start()
        parts.live.start()
        yield
        for stop in (parts.release.stop, parts.live.stop, parts.feedback.close):
            await anyio.to_thread.run_sync(stop)

    # The interactive documentation pages load scripts from another host; the schema itself stays at /openapi.json.
    app = FastAPI(
        title="Triptych gateway",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={status: {"model": ErrorReply} for status in (400, 401, 403, 413, 422, 429)},
    )
    app.add_middleware(
        Guard,
        metrics=metrics,
        access=access,
        max_body_bytes=settings.max_body_bytes,
        max_item_bytes=settings.max_item_bytes,
    )
    add_error_replies(app)
    add_pages(app)
    add_catalogue_routes(app, parts.catalogue)
    add_recommend_routes(app, parts)
    add_explain_route(app, parts)
    add_search_routes(app, parts)
    add_media_search_route(app, parts)
    add_feedback_route(app, parts)
    add_item_routes(app, parts)
    add_monitoring_routes(app, parts)
    describe_security(app)
    return app


def _make_recommender(settings: GatewaySettings, metrics: GatewayMetrics) -> Recommender:
    from serving.client.model_client import ModelClient
    from serving.client.recommender import Recommender

    client = ModelClient(
        settings.target,
        deadline=settings.deadline_seconds,
        hedge=settings.hedge,
        # One probe every few seconds costs a dead server nothing; longer waits would keep a live one idle.
        breaker=lambda: CircuitBreaker(settings.breaker_seconds, longest=2 * settings.breaker_seconds),
        on_hedge=lambda model: metrics.hedges.labels(model).inc(),
    )
    metrics.watch_breakers(lambda: {model: breaker.state for model, breaker in (client.breakers or {}).copy().items()})
    return Recommender(client, label=settings.label, deadline=settings.deadline_seconds)


def _make_parts(settings: GatewaySettings, recommender: Recommender, metrics: GatewayMetrics) -> GatewayParts:
    log = LiveItemsLog(settings.state_folder / "items")
    version = answering_version(settings.run, settings.label)
    catalogue = LiveCatalogue(settings.run, media_folder(settings.source), log, version)
    placing = Placing(
        recommender,
        catalogue.released,
        settings.encoder_model,
        settings.search_model,
        settings.ranking_model,
        settings.encode_seconds,
    )

    def ask() -> Mapping[str, int]:
        models: dict[str, Any] = {
            "retrieval_model": settings.retrieval_model,
            "ranking_model": settings.ranking_model,
        }
        small: dict[str, Any] = {"k": 1, "candidates": 1, "exclude_item_ids": (), "timestamp": catalogue.last_timestamp}
        try:
            versions = recommender.recommend("", **small, **models).versions
        except ServingError:
            metrics.up.set(0)
            raise
        metrics.up.set(1)
        return versions

    parts = GatewayParts(
        settings=settings,
        catalogue=catalogue,
        recommender=recommender,
        metrics=metrics,
        cache=AnswerCache(settings.cache_seconds, settings.cache_entries),
        sessions=Sessions(settings.session_seconds, settings.session_users),
        release=ReleaseWatch(ask, settings.poll_seconds),
        drift=ScoreDrift(settings.score_reference, settings.run / "releases"),
        coverage=Coverage(),
        user_hash=UserHash(settings.log_salt),
        feedback=FeedbackLog(
            settings.state_folder / "feedback", roll_seconds=settings.roll_seconds, roll_events=settings.roll_events
        ),
        live=LiveItems(log, placing, catalogue.read_media, most=settings.most_items, holds=catalogue.holds),
    )
    parts.live.on_change(lambda: catalogue.change(parts.live.items, parts.live.deleted))
    parts.live.on_change(parts.cache.forget_all)
    catalogue.change(parts.live.items, parts.live.deleted)

    def take_over(versions: Mapping[str, int]) -> None:
        version = versions.get(settings.retrieval_model, 0)
        if catalogue.reload(version):
            parts.cache.forget_all()  # what was answered while it was read shows what the one before said
        parts.live.follow(version)  # items are placed beside what the catalogue says of them

    parts.release.on_change(lambda versions: parts.cache.forget_all())
    parts.release.on_change(take_over)
    parts.release.on_change(lambda versions: parts.drift.restart(versions.get(settings.ranking_model)))
    parts.release.on_change(metrics.note_release)
    metrics.watch("score_drift", "Population stability index of the last scores; NaN until known.", parts.drift.index)
    metrics.watch("added_items", "Items that are not of the release.", lambda: len(parts.live.items))
    metrics.watch("sessions", "Sessions that feedback has opened and that have not expired.", lambda: len(parts.sessions))
    metrics.watch(
        "coverage", "Share of the catalogue in the last 500 lists.",
        lambda: parts.coverage.distinct() / max(catalogue.item_count, 1),
    )  # fmt: skip
    return parts
