"""The table of the deletion test: whether the group of features that an explanation names first matters most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.figure import name_of
from pipeline.report.quantities import percent
from pipeline.report.table import ReportTable, format_number

METHODS = {"leave_one_out": "leaving one group out", "integrated_gradients": "integrated gradients"}
REMOVALS = ("permuted", "unknown")


def deletion_table(found: Mapping[str, Any]) -> ReportTable | None:
    """What `pipeline.evaluation.deletion_test` found; None where it has not run."""
    if not found:
        return None
    always, besides = found.get("always") or {}, found.get("besides") or {}
    shares = found.get("shares") or {str(found.get("method")): {found.get("removal", "permuted"): found.get("share")}}
    rows = _rows("among all groups", shares, always)
    if always.get("group"):
        rows += _rows(f"without {name_of(always['group'])}", besides.get("shares") or {}, besides.get("always") or {})
    columns = ("compared", "named first by", "features of another", "features unknown")
    named = sorted(((count, group) for group, count in (found.get("named") or {}).items() if count), reverse=True)
    told = ", ".join(f"{name_of(group)} {format_number(count)}" for count, group in named)
    agreement = found.get("agreement")
    caption = (
        f"In how many of {format_number(found.get('cases'))} cases removing the group named first lowers the score more than "
        "removing a random other one; 0.5 = chance. A group is removed by giving it the features of a random other candidate, "
        "or those of somebody and something unknown. Where one group decides most scores, always naming it does well too; the "
        "lines without it ask whether an explanation tells cases apart."
    )
    caption += f" Both ways of explaining name the same group in {percent(agreement)} of cases." if agreement else ""
    caption += f" Named first by leaving one group out: {told}." if told else ""
    return ReportTable("deletion-test", "Deletion test of explanations", columns, rows, caption, words=2)


def _rows(compared: str, shares: Mapping[str, Mapping[str, Any]], always: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [compared, METHODS.get(method, name_of(method)), *(format_number(of.get(removal)) for removal in REMOVALS)]
        for method, of in shares.items()
    ]
    if always:
        rows.append([compared, f"always {name_of(str(always['group']))}", format_number(always["share"]), ""])
    return rows
