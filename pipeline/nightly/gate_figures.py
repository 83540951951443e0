"""Figures of candidate and current release on the newest days: the same users, the same events, paired where it can be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from pipeline.metrics.bootstrap import bootstrap_means
from pipeline.metrics.metrics import mean_or_none
from pipeline.metrics.segments import MINIMUM_USERS
from pipeline.nightly.gate_contestants import candidate_of, current_of
from pipeline.nightly.gate_judge import judge, rows_shared
from pipeline.policy.stage import comparable_column
from pipeline.ranker.leak_checks import check_retrieval
from pipeline.retrieval.served import served_folder
from pipeline.settings.config import Config
from pipeline.training.epochs import Progress
from pipeline.training.record import read_records

FIGURES = "figures.json"
CANDIDATE, CURRENT = "candidate", "current"


def judge_job(
    dataset: Dataset,
    run: Path,
    parent: Path | None,
    out: Path,
    config: Config,
    progress: Progress,
    current_figures: Callable[[], dict[str, Any] | None] = lambda: None,
) -> dict[str, Any]:
    """Ask both the same and write `figures.json` into `out`.

    `metrics` and `segments`: {name: {"candidate", "current", "difference", "low", "high", "users"}} with the 95 % interval
    of the paired difference over users; `calibration`: expected calibration error by head; `heads`: those that were
    trained; `gap`: NDCG of the best less that of the worst group of users, relative to the mean, and the low end of the
    interval of its growth; `exposure`: share of each group of items.

    A group of items in which none is new is judged among the items that both know: new ones, which the current release
    cannot recommend, take places in the candidate's lists by right.

    Args:
        parent: run folder of the current release; None = there is none, and its figures are left out.
        current_figures: what `judge` says of the current release, where somebody has asked it already; else None.
    """
    check_retrieval(dataset, read_records(served_folder(run)), "test")
    shared = rows_shared(dataset, parent)
    progress(CANDIDATE, 0, 2)
    found = {CANDIDATE: judge(dataset, candidate_of(dataset, run, config.index.kind), config, shared)}
    progress(CURRENT, 1, 2)
    if parent is not None:
        found[CURRENT] = current_figures() or judge(dataset, current_of(dataset, parent), config, shared)
    progress(CURRENT, 2, 2)
    users = found[CANDIDATE]["users"]
    column = comparable_column(dataset, users)
    metrics = paired(found, "metrics", config.gate.seed)
    result = {
        "users": len(users),
        "new_items": int((dataset.counts[1:] == 0).sum()),
        "metrics": metrics,
        "segments": paired(found, "segments", config.gate.seed),
        "calibration": {name: part["calibration"] for name, part in found.items()},
        "heads": {name: part["heads"] for name, part in found.items()},
        "gap": {name: gap_of(part["segments"], column) for name, part in found.items()}
        | {"low": gap_growth({name: part["segments"] for name, part in found.items()}, column, config.gate.seed)},
        "exposure": {name: part["exposure"] for name, part in found.items()},
    }
    (out / FIGURES).write_text(json.dumps(result, indent=2))
    return {"users": len(users), **{name: line[CANDIDATE] for name, line in metrics.items()}}


def paired(found: Mapping[str, Mapping[str, Any]], part: str, seed: int) -> dict[str, dict[str, Any]]:
    """Means of both, and their difference with its interval over the users that both have a value for."""
    mine = found[CANDIDATE][part]
    others = found[CURRENT][part] if CURRENT in found else {}
    lines: dict[str, dict[str, Any]] = {}
    for name, values in mine.items():
        users = int((~np.isnan(values)).sum())
        if users < MINIMUM_USERS and part == "segments":
            continue
        lines[name] = {CANDIDATE: mean_or_none(values), "users": users}
        if name in others:
            lines[name] |= {CURRENT: mean_or_none(others[name]), "difference": mean_or_none(values - others[name])}
    both = [name for name in lines if name in others]
    if both:
        table = np.stack([mine[name] - others[name] for name in both], axis=1)
        # Of twenty segments one is out of its interval by chance; theirs are wide enough for all together (Bonferroni).
        level = 1 - 0.05 / (len(both) if part == "segments" else 1)
        bounds = bootstrap_means(table, np.random.default_rng(seed), level=level, resamples=4000)
        for name, low, high in zip(both, *bounds, strict=True):
            lines[name] |= {"low": float(low), "high": float(high)}
    return lines


def gap_of(segments: Mapping[str, NDArray], column: str) -> float | None:
    """NDCG of the best served group of a profile column less that of the worst, by their mean; None without groups.

    Example:
        >>> gap_of({"age: a": np.array([0.25, np.nan]), "age: b": np.array([np.nan, 0.75]), "items: head": np.ones(2)}, "age")
        1.0
    """
    told = [mean_or_none(values) for name, values in segments.items() if column and name.startswith(f"{column}: ")]
    means = [value for value in told if value is not None]
    return (max(means) - min(means)) / max(float(np.mean(means)), 1e-12) if len(means) > 1 else None


def gap_growth(found: Mapping[str, Mapping[str, NDArray]], column: str, seed: int) -> float | None:
    """The low end of the 95 % interval of the candidate's gap less the current one's, over a thousand resamples of the users;
    None where there are not both. The gap of a dozen small groups moves by half on a day by chance.

    Args:
        found: {contestant: {segment: [Q]}}.
    """
    names = [name for name in found[CANDIDATE] if column and name.startswith(f"{column}: ")]
    if CURRENT not in found or len(names) < 2:
        return None
    rng, gaps = np.random.default_rng(seed), []
    users = len(found[CANDIDATE][names[0]])
    weights = rng.multinomial(users, np.full(users, 1 / users), size=1000).astype(np.float64)
    for contestant in (CANDIDATE, CURRENT):
        table = np.stack([found[contestant][name] for name in names], axis=1)
        defined = ~np.isnan(table)
        means = (weights @ np.where(defined, table, 0.0)) / np.maximum(weights @ defined, 1.0)
        gaps.append((means.max(axis=1) - means.min(axis=1)) / np.maximum(means.mean(axis=1), 1e-12))
    return float(np.quantile(gaps[0] - gaps[1], 0.025))
