"""The ranking part of the report: its figures from the stages' files, and tables of them that people can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.report.deletion import deletion_table
from pipeline.report.figure import name_of
from pipeline.report.orders import modality_table, order_tables, trees_table
from pipeline.report.policy import policy_report_tables
from pipeline.report.table import ReportTable, format_number, interval_text, short_number
from pipeline.stage import read_json


def ranking_figures(run: Path) -> dict[str, Any]:
    """What the ranking and the evaluate stage left, with the deletion test, which has a file of its own."""
    figures = read_json(run / "ranking" / "report.json", {}) | read_json(run / "evaluate" / "ranking.json", {})
    deletion = read_json(run / "evaluate" / "deletion.json")
    return figures | ({"deletion_test": deletion} if deletion else {})


def ranking_tables(ranking: Mapping[str, Any]) -> list[ReportTable]:
    """Every table of the ranking part that has figures."""
    made = [
        *order_tables(ranking),
        trees_table(ranking),
        modality_table(ranking.get("without_modality") or {}),
        _heads_table(ranking.get("heads") or {}),
        _heads_by_segment(ranking.get("heads") or {}),
        *_exposure_tables(ranking.get("exposure") or {}),
        _off_policy_table(ranking.get("off_policy") or {}),
        *policy_report_tables(ranking),
        deletion_table(ranking.get("deletion_test") or {}),
    ]
    return [table for table in made if table is not None and table.rows]


def _heads_table(heads: Mapping[str, Any]) -> ReportTable:
    names = {
        "examples": "examples", "positives": "positives", "auc": "AUC", "logloss": "log loss", "ece": "calibration error",
        "rmse": "error (RMSE)", "spread": "of the mean",
    }  # fmt: skip
    # Which of them there are depends on what the heads predict.
    names = {key: name for key, name in names.items() if any(figures.get(key) is not None for figures in heads.values())}
    rows = [[head, *(format_number(figures.get(key)) for key in names)] for head, figures in heads.items()]
    caption = (
        "Over what was shown in the test split and negatives drawn as in training. The calibration error is the mean gap "
        "between predicted and observed over 15 bins of equal size"
    )
    number = "; a head that predicts a number has an RMSE instead, beside that of always saying the mean"
    caption += f"{number if 'rmse' in names else ''}."
    return ReportTable("heads", "Predictions by head", ("head", *names.values()), rows, caption)


def _heads_by_segment(heads: Mapping[str, Any]) -> ReportTable:
    rows = [
        [head, name_of(dimension), group, *(format_number(figures[name]) for name in ("examples", "auc", "logloss", "ece"))]
        for head, of_head in heads.items()
        for dimension, groups in (of_head.get("segments") or {}).items()
        for group, figures in groups.items()
    ]
    columns = ("head", "of", "group", "examples", "AUC", "log loss", "calibration error")
    return ReportTable("heads-segments", "Predictions by head and segment", columns, rows, words=3, folded=True)


def _exposure_tables(exposure: Mapping[str, Any]) -> list[ReportTable]:
    if not exposure:
        return []
    columns = {**exposure["orders"], "chosen": exposure["chosen"]}
    names = {
        "coverage": "share of the catalogue shown to anybody",
        "gini": "concentration of exposure (Gini)",
        "average_popularity": "training events an item",
        "mean_log_popularity": "log popularity",
        "popularity_bias": "log popularity above what people chose",
        "intra_list_diversity": "difference in content within a list",
    }
    rows = [
        [name, *(format_number(values.get(key)) for values in columns.values())]
        for key, name in names.items()
        if any(values.get(key) is not None for values in columns.values())
    ]
    heading = f"What the first {exposure['k']} show"
    tables = [
        ReportTable("exposure", heading, ("measure", *map(name_of, columns)), rows, "Means over users, or over all lists.")
    ]
    shares = [
        [name_of(dimension) if place == 0 else "", group, *(format_number(values[name]) for name in values)]
        for dimension, groups in exposure["groups"].items()
        for place, (group, values) in enumerate(groups.items())
    ]
    kinds = next((list(values) for groups in exposure["groups"].values() for values in groups.values()), [])
    caption = "Exposure counts a place p as 1 / log2(1 + p); beside it the share of choices, and of the catalogue."
    tables.append(
        ReportTable(
            "exposure-groups", "Whose items are shown", ("of", "group", *map(name_of, kinds)), shares, caption, 2
        )
    )
    return tables


def _off_policy_table(found: Mapping[str, Any]) -> ReportTable | None:
    if not found:
        return None
    rows = [["the log's own pages", "mean", short_number(found["logged"]), "", ""]]
    for policy, kinds in found["policies"].items():
        for kind, figures in kinds.items():
            triple = interval_text([figures[key] for key in ("value", "low", "high")])
            told = (f"{figures['weight']:.2f}", format_number(round(figures["effective_actions"])))
            rows.append([name_of(policy), kind.upper(), triple, *told])
    for kind, (gap, low, high) in found["difference"].items():
        name = " less ".join(map(name_of, found["policies"]))
        rows.append([name, kind.upper(), interval_text([gap, low, high]), "", ""])
    clip = "no weight clipped" if found["clip"] is None else f"weights clipped at {found['clip']:g}"
    later = found.get("later_impressions", 0)
    first = f" Of each visit the first page counts; {later:,} impressions of later pages do not." if later else ""
    caption = (
        f"From {found['pages']:,} pages and {found['impressions']:,} impressions with their propensities, {clip}.{first} "
        f"A weight a page far below {found['size']} says that the log hardly ever shows what the policy would: IPS is then "
        "too low, and DR leans on the ranker's own predictions."
    )
    return ReportTable(
        "off-policy",
        f"{found['reward'].capitalize()}s that a page of {found['size']} would have earned",
        ("policy", "estimator", "value [95 % interval]", "weight a page", "effective impressions"),
        rows,
        caption,
        words=2,
    )
