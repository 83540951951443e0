"""The gateway: a web application between people and the model server.

It answers `/v1/recommend` by calling the model server over gRPC with a deadline, adds titles, covers and clips, and
answers popular items, marked as such, when no model does. Start it from Python:

    app = create_app(GatewaySettings(run="runs/demo", source="runs/demo/world", target="127.0.0.1:8500"))
    uvicorn.run(app, host="127.0.0.1", port=8080, log_level="warning")
"""

from __future__ import annotations

from fastapi import FastAPI

from serving.catalogue import Catalogue, media_folder
from serving.gateway_catalogue import add_catalogue_routes, add_page
from serving.gateway_errors import add_error_replies
from serving.gateway_guard import Guard
from serving.gateway_messages import ErrorReply
from serving.gateway_metrics import GatewayMetrics
from serving.gateway_monitoring import add_monitoring_routes
from serving.gateway_parts import AnyRecommender, GatewayParts
from serving.gateway_recommend import add_recommend_routes
from serving.gateway_settings import GatewaySettings

__all__ = ["GatewaySettings", "create_app"]


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
    parts = GatewayParts(settings, catalogue, recommender, GatewayMetrics())
    # The interactive documentation pages load scripts from another host; the schema itself stays at /openapi.json.
    app = FastAPI(
        title="Triptych gateway", version="1", docs_url=None, redoc_url=None, responses={422: {"model": ErrorReply}}
    )
    app.add_middleware(Guard, metrics=parts.metrics, max_body_bytes=settings.max_body_bytes)
    add_error_replies(app)
    add_page(app)
    add_catalogue_routes(app, catalogue)
    add_recommend_routes(app, parts)
    add_monitoring_routes(app, parts)
    return app
