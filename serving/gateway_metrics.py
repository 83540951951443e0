"""The gateway's own Prometheus metrics, one registry an app so that two apps in one process do not collide."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class GatewayMetrics:
    """Requests, fallbacks and the latency of each stage.

    Example:
        >>> metrics = GatewayMetrics()
        >>> with metrics.stage("retrieval"):
        ...     pass
        >>> b'triptych_gateway_stage_seconds_count{stage="retrieval"} 1.0' in metrics.expose()
        True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "triptych_gateway_requests", "Requests by route template and HTTP status.",
            ("route", "method", "status"), registry=self.registry,
        )  # fmt: skip
        self.fallbacks = Counter(
            "triptych_gateway_fallbacks", "Requests answered with popular items, by the model server's status code.",
            ("reason",), registry=self.registry,
        )  # fmt: skip
        self.unknown_users = Counter(
            "triptych_gateway_unknown_users", "Recommendations for a user id never seen.", registry=self.registry
        )
        self.items = Counter(
            "triptych_gateway_recommended_items", "Items answered in recommendations.", registry=self.registry
        )
        self.up = Gauge(
            "triptych_gateway_models_available", "1 when the last call to the model server was answered, 0 when not.",
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "triptych_gateway_stage_seconds", "Seconds by stage: retrieval, ranking, fallback, catalogue, total.",
            ("stage",), buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the body, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.labels(name).observe(time.perf_counter() - started)

    def expose(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
