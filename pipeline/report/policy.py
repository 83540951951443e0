"""Tables of the re-ranking policies: what diversity costs and brings, and whose items and users gain by fairness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.figure import name_of
from pipeline.report.table import ReportTable, format_number, interval_text

KINDS = {"default": "as released", "dpp": "determinantal (DPP)", "mmr": "marginal relevance (MMR)"}


def policy_report_tables(ranking: Mapping[str, Any]) -> list[ReportTable]:
    """The tables of `ranking.diversity` and `ranking.fairness`, see `pipeline.policy.judge`."""
    diversity, fairness = ranking.get("diversity") or {}, ranking.get("fairness") or {}
    return [
        _diversity_table(diversity),
        _trade_off_table(diversity.get("validation") or {}),
        _fairness_table(fairness),
        _user_groups_table(fairness.get("users") or {}),
    ]


def _diversity_table(diversity: Mapping[str, Any]) -> ReportTable:
    rows = []
    for kind in ("default", "dpp"):
        figures = diversity.get(kind) or {}
        if figures:
            quality, *distances = (figures.get(name) or {} for name in ("ndcg@10", "distance", "content_distance"))
            people = (figures.get("by_user") or {}).get("ndcg@10") or {}
            change = interval_text(figures.get("ndcg_difference"))
            told = [_before_after(measure) for measure in (*distances, people)]
            rows.append([KINDS[kind], _before_after(quality), change, *told])
    columns = (
        "policy", "NDCG@10", "change", "distance by served tokens", "distance by content", "NDCG@10, user by user"
    )  # fmt: skip
    caption = (
        "Before → after, visit by visit, where nothing else is said. Distances are means over the pairs of a page: 0 = all "
        "alike. The released policy is judged without what it adds by chance (epsilon, thompson) and without floors of single "
        "user groups (user_floors): whatever of these is set costs beside what stands here."
    )
    return ReportTable("diversity", f"Diversity of the first {diversity.get('k', 10)}", columns, rows, caption)


def _trade_off_table(validation: Mapping[str, Any]) -> ReportTable:
    plain = validation.get("plain") or {}
    rows = [["none", "", format_number(plain.get("ndcg@10")), format_number(plain.get("distance")), ""]] if plain else []
    rows += [
        [KINDS[kind], *(format_number(point.get(name)) for name in ("weight", "ndcg@10", "distance", "cost"))]
        for kind in ("mmr", "dpp")
        for point in validation.get(kind) or []
    ]
    columns = ("policy", "weight", "NDCG@10", "distance", "share of NDCG@10 lost, smoothed")
    caption = f"None of it was chosen by these figures: {validation['reason']}." if validation.get("reason") else ""
    return ReportTable("trade-off", "What diversity costs (held-out visits)", columns, rows, caption, folded=True)


def _fairness_table(fairness: Mapping[str, Any]) -> ReportTable:
    rows = [
        [name_of(name), *(format_number(figures.get(key)) for key in ("ndcg@10", "cost", "exposure_share", "disparity"))]
        for name, figures in (fairness.get("policies") or {}).items()
    ]
    caption = ""
    if rows:
        shares = [format_number(fairness.get(f"share_of_{name}")) for name in ("catalogue", "choices")]
        caption = (
            f"{name_of(str(fairness.get('protected', 'protected items'))).capitalize()}: {shares[0]} of the catalogue, "
            f"{shares[1]} of what people chose. A disparity of 1 shows them as much as people choose them; the cost is the "
            "share of NDCG@10 lost."
        )
    columns = ("policy", "NDCG@10", "cost", "share of exposure", "disparity")
    return ReportTable("fairness", "Exposure of a protected group of items", columns, rows, caption)


def _user_groups_table(users: Mapping[str, Any]) -> ReportTable:
    def line(name: str, figures: Mapping[str, Any]) -> Sequence[str]:
        pairs = [_arrow(figures.get(key)) for key in ("ndcg@10", "protected_share")]
        return [name, format_number(figures["users"]) if "users" in figures else "", *pairs]

    rows = [line(name, figures) for name, figures in (users.get("groups") or {}).items()]
    if rows:
        rows.append(line("largest less smallest", users.get("gap") or {}))
    columns = (name_of(str(users.get("column", "group"))), "users", "NDCG@10", "share of the protected items")
    caption = "Before → after floors that bring the groups' shares together." if rows else ""
    return ReportTable("user-groups", "How groups of users are served", columns, rows, caption)


def _before_after(figures: Mapping[str, Any]) -> str:
    return _arrow([figures.get("before"), figures.get("after")]) if figures else "–"


def _arrow(pair: Sequence[Any] | None) -> str:
    return f"{format_number(pair[0])} → {format_number(pair[1])}" if pair else "–"
