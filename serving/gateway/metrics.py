"""The gateway's own Prometheus metrics, one registry an app so that two apps in one process do not collide."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.client.circuit_breaker import STATES

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class GatewayMetrics:
    """Requests, fallbacks, the latency of each stage, and what is worth watching beside them.

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
            "triptych_gateway_fallbacks",
            "Requests answered with popular items, by stage (recommend, search, ...) and the model server's status code.",
            ("stage", "reason"), registry=self.registry,
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
            "triptych_gateway_stage_seconds",
            "Seconds by stage: retrieval, ranking, fallback, catalogue, total (of new answers), cached.",
            ("stage",), buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip

        self.cached = Counter(
            "triptych_gateway_cache", "Recommendations, all of them, by whether the answer was kept from before.",
            ("result",), registry=self.registry,
        )  # fmt: skip
        self.hedges = Counter(
            "triptych_gateway_hedges", "Calls sent a second time, by model.", ("model",), registry=self.registry
        )
        self.feedback = Counter(
            "triptych_gateway_feedback", "Feedback events by kind and by what became of them: new, duplicate, refused.",
            ("event", "result"), registry=self.registry,
        )  # fmt: skip
        self.item_changes = Counter(
            "triptych_gateway_item_changes", "Items added, changed and deleted.", ("change",), registry=self.registry
        )

        self._release = Gauge(
            "triptych_gateway_release", "Release of the last answer, by model.", ("model",), registry=self.registry
        )

    def note_release(self, versions: Mapping[str, int]) -> None:
        """Keeps which release answers, by model."""
        for model, version in versions.items():
            self._release.labels(model).set(version)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for its value whenever the metrics are read."""
        Gauge(f"triptych_gateway_{name}", text, registry=self.registry).set_function(value)

    def watch_breakers(self, states: Callable[[], Mapping[str, str]]) -> None:
        """The state of every circuit breaker, as 1 beside 0s."""
        self.registry.register(_Breakers(states))

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


class _Breakers(Collector):
    def __init__(self, states: Callable[[], Mapping[str, str]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "triptych_gateway_circuit_breaker", "1 for the state of each model's breaker.", labels=("model", "state")
        )
        for model, current in sorted(self._states().items()):
            for state in STATES:
                family.add_metric((model, state), float(state == current))
        yield family
