"""The gateway's own routes for operators: `/healthz` and `/metrics`."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.gateway.messages import HealthReply
from serving.gateway.parts import GatewayParts
from serving.status import ServingError


def add_monitoring_routes(app: FastAPI, parts: GatewayParts) -> None:
    """`/healthz` and `/metrics`."""
    settings, catalogue = parts.settings, parts.catalogue

    @app.get("/healthz", summary="Whether the models answer")
    def healthz() -> HealthReply:
        """Answers 200 also when degraded: popular items are still served, and a restart would not help the models."""
        models: dict[str, dict[str, str]] = {}
        problem: str | None = None
        for name in (settings.retrieval_model, settings.ranking_model):
            try:
                states = parts.recommender.client.status(name)
                models[name] = {str(version): state for version, state in states.items()}
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
        return Response(parts.metrics.expose(), media_type=CONTENT_TYPE_LATEST)
