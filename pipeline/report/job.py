"""The job part of the report: what became of it, what data checks found and the gate decided, each line with its bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.table import ReportTable

VERDICTS = {"go": "go", "warn": "go, with a warning", "stop": "stop"}


def job_account(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a job; `current`: the version of the release that it went on from, None where there was none yet."""
    before = (outcome.get("made_from") or {}).get("release") or {}
    told = {"number": outcome["job"], "outcome": outcome["outcome"], "why": outcome["why"]}
    return {**told, "current": before.get("version")}


def job_tables(checks: Mapping[str, Any] | None, gate: Mapping[str, Any] | None) -> list[ReportTable]:
    """A table of each, the worst lines first; none where the run was no job.

    Args:
        checks: the content of `checks/checks.json`. gate: that of `gate/decision.json`.
    """
    tables = []
    if checks:
        order = ("stop", "warn", "go")
        lines = sorted(checks["checks"], key=lambda check: order.index(check["verdict"]))
        rows = [[check["name"], "not judged" if check["skipped"] else VERDICTS[check["verdict"]], check["found"],
                 check["allowed"]] for check in lines]  # fmt: skip
        heading = f"Data checks: {VERDICTS[checks['decision']]}"
        caption = (
            "What came since the last release against the days before it; bounds are those of [checks]. PSI, the population "
            "stability index: 0 = the same distribution; a bound is for what is above chance. Of volume it is for the factor, "
            "of shares for the change as a share of what was usual."
        )
        columns = ("looked at", "verdict", "found", "bounds")
        tables.append(ReportTable("data-checks", heading, columns, rows, caption, words=4, prose=3))
    if gate:
        lines = sorted(gate["rules"], key=lambda rule: rule["passed"])
        rows = [[rule["name"], "passed" if rule["passed"] else "failed", rule["found"], rule["allowed"]] for rule in lines]
        heading = f"Release gate: {'published' if gate['publish'] else 'kept back'}"
        caption = "The candidate against the current release on the newest days, the same users paired; 95 % intervals."
        columns = ("bound", "verdict", "found", "allowed")
        tables.append(ReportTable("gate", heading, columns, rows, caption, words=4, prose=3))
    return tables


def job_words(checks: Mapping[str, Any] | None, gate: Mapping[str, Any] | None) -> str:
    """One sentence for the top of the report; "" where the run was no job.

    Example:
        >>> job_words({"decision": "stop", "checks": [{"name": "volume", "verdict": "stop", "found": "no event"}]}, None)
        'The data checks stopped this job (volume: no event); the current release stays.'
        >>> job_words(None, None)
        ''
    """
    if checks and checks["decision"] == "stop":
        why = "; ".join(f"{check['name']}: {check['found']}" for check in checks["checks"] if check["verdict"] == "stop")
        return f"The data checks stopped this job ({why}); the current release stays."
    if not gate:
        return ""
    failed = [rule["name"] for rule in gate["rules"] if not rule["passed"]]
    if failed:
        return f"The gate kept this candidate back ({', '.join(failed)}); the current release stays."
    return f"The candidate held all {len(gate['rules'])} bounds of the gate and was published."
