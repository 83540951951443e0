"""The index of a run: built and measured on validation requests, with its trade-off as a table and a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data.dataset import Dataset
from pipeline.metrics.examples import make_requests
from pipeline.report.plots import plot_index
from pipeline.retrieval.served import shared_served
from pipeline.settings.index import IndexSection
from serving.index.build import build_indexes

TABLE, PLOT = "trade_off.csv", "trade_off.svg"


def build_index_stage(
    dataset: Dataset, run: Path, out: Path, section: IndexSection, say: Callable[[str], None]
) -> dict[str, Any]:
    """Item embeddings -> the indexes in `out`, `report.json`, `trade_off.csv` and `trade_off.svg`; returns the figures.

    Nothing is drawn where no points beside the chosen ones are measured (`index.points_beyond` is 0), or under three in all.

    Raises:
        serving.index.build.RecallBelowFloor: the kind that was asked for finds too little.
    """
    served = shared_served(run)
    length = served.history_length
    requests = make_requests(dataset, "valid", known_splits=("train",), history_length=length, most=section.queries)
    queries = served.queries(dataset.profile, requests.users, requests.history)
    settings = section.model_dump(exclude={"queries"})
    report = build_indexes(served.items, queries, out, **settings, say=lambda line: say(f"[index] {line}"))
    write_trade_off(report, out, drawn=section.points_beyond > 0)
    return {key: value for key, value in report.items() if key != "trade_off"}


def write_trade_off(report: Mapping[str, Any], out: Path, *, drawn: bool = True) -> None:
    """Recall, latency and bytes of every setting that was measured, as `trade_off.csv` and, `drawn`, `trade_off.svg`."""
    pd.DataFrame(report["trade_off"]).to_csv(out / TABLE, index=False)
    plot = plot_index(report) if drawn else None
    if plot is not None:
        (out / PLOT).write_text(plot.document, encoding="utf-8")
