"""Tables of the ranked order beside others: as retrieved, by boosted trees, and without a modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.figure import name_of
from pipeline.report.table import ReportTable, format_number, interval_text

CUTOFF = "ndcg@10"
"""The one that segments are shown by; `report.json` has the others."""


def order_tables(ranking: Mapping[str, Any]) -> list[ReportTable]:
    """By task and cutoff, and one more a task by segment."""
    order, visits = ranking.get("order") or {}, ranking.get("by_request") or {}
    tasks = {task: figures["all"]["all"] for task, figures in order.items() if figures.get("all", {}).get("all")}
    cutoffs = list(dict.fromkeys(name for figures in tasks.values() for name in figures if name.startswith("ndcg@")))
    rows = [
        [task, cutoff.upper(), format_number(figures["users"]), *_triples(figures.get(cutoff))]
        for task, figures in tasks.items()
        for cutoff in cutoffs
    ]
    if visits:
        triples = [interval_text(visits.get(name)) for name in ("retrieval", "ranked", "ranked_less_retrieval")]
        rows.insert(0, ["click, visit by visit", f"NDCG@{visits['k']}", format_number(visits["requests"]), *triples])
    columns = ("wanted", "metric", "users or visits" if visits else "users", "retrieval order", "ranked", "gain")
    caption = (
        f"Means over users{', in the first row over visits' if visits else ''}, with 95 % intervals; the gain's is of the "
        "pairs, and so is tighter than the two beside it."
    )
    tables = [ReportTable("order", "Ranked against the retrieval order", columns, rows, caption, words=2)]
    for task, figures in order.items():
        rows = []
        for dimension, groups in figures.items():
            for place, (group, values) in enumerate(groups.items()):
                if dimension != "all" and values.get(CUTOFF):
                    cells = [name_of(dimension) if place == 0 else "", group, format_number(values["users"])]
                    rows.append([*cells, *_triples(values[CUTOFF]), _verdict(values[CUTOFF])])
        tables.append(
            ReportTable(
                f"segments-{task}",
                f"By segment: {task}, {CUTOFF.upper()}",
                ("of", "group", "users", "retrieval order", "ranked", "gain", "ranked is"),
                rows,
                "Groups of items count the held-out items of the group alone, among all candidates; groups of people "
                "those people. “better” and “worse” where the interval of the gain leaves out 0; of many groups one in "
                "twenty does so by chance.",
                words=2,
                folded=task != "click",
            )
        )
    return tables


def trees_table(ranking: Mapping[str, Any]) -> ReportTable | None:
    """Retrieval order, trees and ranker; why there are no trees where there are none; None where nothing was judged."""
    trees = ranking.get("lightgbm") or {}
    if "skipped" in trees:
        return ReportTable("trees", "Boosted trees on the same features", ("not fitted",), [[str(trees["skipped"])]])
    if trees.get("ndcg@10") is None:
        return None
    rows = [["retrieval order", format_number(ranking.get("retrieval_order_ndcg@10")), ""]]
    rows += [["LightGBM, lambdarank", format_number(trees["ndcg@10"]), f"{trees.get('rounds')} trees"]]
    gain = interval_text(trees.get("ranker_less_trees"))
    rows += [["Triptych", format_number(ranking.get("ndcg@10")), f"{gain} against the trees"]]
    caption = (
        "Trees see the features of the ranker that mean something each alone (no coordinates of vectors), are stopped on the "
        "same held-out requests, and are then fitted to these too, as the ranker is. The ranker has trees of its own, fitted "
        "to clicks one by one, beside its network (ranking.trees)."
    )
    return ReportTable("trees", "Boosted trees on the same features", ("model", "NDCG@10", "beside it"), rows, caption)


def modality_table(judged: Mapping[str, Any]) -> ReportTable:
    """What is left of the ranked order without each modality; see `pipeline.evaluation.modality_quality`."""
    rows = [["nothing", interval_text(judged.get(CUTOFF)), "", "", ""]] if judged else []
    for name, parts in (judged.get("without") or {}).items():
        cells = [interval_text((parts.get(part) or {}).get(figure)) for part in ("ranker", "path")
                 for figure in (CUTOFF, "difference")]  # fmt: skip
        rows.append([name_of(name), *cells])
    caption = (
        f"{format_number(judged.get('visits'))} visits, with 95 % intervals; changes are of the pairs. Hidden from the ranker, "
        "the candidates and their retrieval scores stay; hidden from retrieval too, they are those of the model that was "
        "trained without it."
    )
    columns = ("without", "hidden from the ranker: NDCG@10", "change", "from retrieval too: NDCG@10", "change")
    return ReportTable("modalities", "What each modality is worth to the order", columns, rows, caption)


def _triples(figures: Mapping[str, Any] | None) -> list[str]:
    return [interval_text((figures or {}).get(name)) for name in ("retrieval", "ranked", "difference")]


def _verdict(figures: Mapping[str, Any]) -> str:
    _, low, high = figures.get("difference") or (None, None, None)
    if low is None or high is None:
        return "–"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"
