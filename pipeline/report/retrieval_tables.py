"""The report's tables of retrieval: every figure of every system, and every setting of the index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.figure import name_of
from pipeline.report.table import ReportTable, format_number
from pipeline.report.words import format_bytes

METRICS = ("recall@10", "recall@20", "recall@100", "ndcg@10", "ndcg@20", "mrr", "coverage", "popularity_bias")


def metric_table(retrieval: Mapping[str, Any]) -> dict[str, Any]:
    """Every retrieval figure: columns, and rows of (segment, system, values)."""
    systems: dict[str, Any] = {
        "model": retrieval,
        "oracle": retrieval.get("oracle") or {},
        **(retrieval.get("baselines") or {}),
    }
    for modality, entry in (retrieval.get("ablation") or {}).items():
        systems |= {f"{modality} {kind}": entry[kind] for kind in ("masked", "alone", "retrained") if kind in entry}
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
        [str(point["kind"]), str(point.get("setting") or ""),
         *(format_number(point.get(name)) for name in ("recall@100_vs_exact", "p50_ms", "p99_ms")),
         format_bytes(point.get("bytes"))]
        for point in index.get("trade_off") or []
    ]  # fmt: skip
    columns = ("Kind", "Setting", "recall@100", "p50 ms", "p99 ms", "size")
    return ReportTable("index", "Recall, latency, bytes", columns, rows, words=2)
