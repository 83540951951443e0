"""The report's tables of retrieval: every figure of every system, and every setting of the index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.figure import name_of
from pipeline.report.quantities import format_bytes
from pipeline.report.table import ReportTable, format_milliseconds, format_number
from pipeline.report.words import kind_name

METRICS = ("recall@10", "recall@20", "recall@100", "ndcg@10", "ndcg@20", "mrr", "coverage", "popularity_bias")
WITHOUT = {
    "masked": "two towers, {} hidden", "alone": "two towers shown {} alone", "retrained": "trained without {}"
}  # fmt: skip
"""What the kinds of an ablation are called."""


def metric_table(retrieval: Mapping[str, Any]) -> dict[str, Any]:
    """Every retrieval figure: columns, and rows of (segment, system, values)."""
    systems: dict[str, Any] = {
        "model": retrieval,
        "oracle": retrieval.get("oracle") or {},
        **(retrieval.get("baselines") or {}),
    }
    for modality, entry in (retrieval.get("ablation") or {}).items():
        systems |= {told.format(modality): entry[kind] for kind, told in WITHOUT.items() if kind in entry}
    rows = [
        (name_of(segment), name_of(system), metrics)
        for segment in ("test", "cold_items")
        for system, entry in systems.items()
        if isinstance(metrics := entry.get(segment), Mapping)
    ]
    columns = [metric for metric in METRICS if any(metric in metrics for _, _, metrics in rows)]
    return {
        "columns": columns,
        "rows": [(segment, system, [metrics.get(name) for name in columns]) for segment, system, metrics in rows],
    }


def index_table(index: Mapping[str, Any]) -> ReportTable:
    """Every setting of an index that was tried."""
    rows = [
        [kind_name(point["kind"]), str(point.get("setting") or ""), format_number(point.get("recall@100_vs_exact")),
         *(format_milliseconds(point.get(name)) for name in ("p50_ms", "p99_ms")),
         format_bytes(point.get("bytes"))]
        for point in index.get("trade_off") or []
    ]  # fmt: skip
    columns = ("Kind", "Setting", "recall@100", "p50 ms", "p99 ms", "size")
    return ReportTable("index", "Recall, latency, bytes", columns, rows, words=2)
