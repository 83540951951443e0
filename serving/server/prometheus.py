"""The metrics page of a model server, under TF Serving's names."""

from __future__ import annotations

import bisect
import itertools
import threading

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"

BUCKETS = tuple(10 * 1.8**exponent for exponent in range(33))
"""Upper bounds of the latency histograms in microseconds: 10 to about 20 minutes."""

Labels = tuple[tuple[str, str], ...]


def _text(labels: Labels) -> str:
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    return ",".join(f'{name}="{value}"' for name, value in escaped)


class ServerMetrics:
    """Counts requests by model and status, and collects latencies by model and API.

    Thread safe. Callers pass only names of configured models, or "" for the rest, so that hostile names cannot grow the
    page.

    Example:
        >>> metrics = ServerMetrics()
        >>> metrics.record("ranking", "Predict", "GRPC", "OK", 1200.0)
        >>> metrics.page().splitlines()[1]
        ':tensorflow:serving:request_count{model_name="ranking",status="OK"} 1'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Labels, int] = {}
        self._histograms: dict[str, dict[Labels, tuple[list[int], list[float]]]] = {
            REQUEST_LATENCY: {},
            RUNTIME_LATENCY: {},
        }

    def record(self, model: str, api: str, entrypoint: str, status: str, microseconds: float) -> None:
        """Counts one request.

        Args:
            model: model name.
            api: "Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata".
            entrypoint: "GRPC" or "REST".
            status: name of the canonical code.
            microseconds: wall time of the whole request.
        """
        key = (("model_name", model), ("status", status))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            if status == "OK":
                labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
                self._observe(REQUEST_LATENCY, labels, microseconds)

    def record_runtime(self, model: str, api: str, microseconds: float) -> None:
        """Adds the time that one request spent in the graph."""
        with self._lock:
            self._observe(RUNTIME_LATENCY, (("model_name", model), ("API", api), ("runtime", "TF1")), microseconds)

    def _observe(self, metric: str, labels: Labels, microseconds: float) -> None:
        buckets, total = self._histograms[metric].setdefault(labels, ([0] * (len(BUCKETS) + 1), [0.0]))
        buckets[bisect.bisect_left(BUCKETS, microseconds)] += 1
        total[0] += microseconds

    def page(self) -> str:
        """The metrics in Prometheus's text format."""
        lines = []
        with self._lock:
            lines.append(f"# TYPE {REQUEST_COUNT} counter")
            lines.extend(
                f"{REQUEST_COUNT}{{{_text(labels)}}} {count}" for labels, count in sorted(self._counts.items())
            )
            for metric, histograms in self._histograms.items():
                lines.append(f"# TYPE {metric} histogram")
                for labels, (buckets, total) in sorted(histograms.items(), key=lambda item: item[0]):
                    text = _text(labels)
                    bounds = [f"{bound:g}" for bound in BUCKETS] + ["+Inf"]
                    for bound, count in zip(bounds, itertools.accumulate(buckets), strict=True):
                        lines.append(f'{metric}_bucket{{{text},le="{bound}"}} {count}')
                    lines.append(f"{metric}_sum{{{text}}} {total[0]:.17g}")
                    lines.append(f"{metric}_count{{{text}}} {sum(buckets)}")
        return "\n".join(lines) + "\n"
