"""What the gateway's routes share: settings, catalogue, the recommender behind them, and the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from serving.catalogue import Catalogue
from serving.gateway_metrics import GatewayMetrics
from serving.gateway_settings import GatewaySettings


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


@dataclasses.dataclass(frozen=True)
class GatewayParts:
    """One application's parts, made in `serving.gateway.create_app` and handed to every group of routes."""

    settings: GatewaySettings
    catalogue: Catalogue
    recommender: AnyRecommender
    metrics: GatewayMetrics
