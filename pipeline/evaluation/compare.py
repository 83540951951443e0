"""Two runs on the same questions: each metric's paired difference over users, its interval and its p-values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.user_values import UserValues, read_user_values
from pipeline.metrics.significance import compare_paired, holm_adjusted
from pipeline.stage import StageError, read_manifest

MADE_FROM = {"ranking": "ranking", "served/full": "served"}
"""What a release and an evaluation name alike: key of the release's `made_from` -> input of the evaluate stage."""


@dataclasses.dataclass(frozen=True)
class MetricComparison:
    """One metric of two runs: means, first − second with its interval, p-values as they are and adjusted by Holm."""

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    wins: int
    losses: int
    users: int


def compare_runs(
    first: UserValues, second: UserValues, metrics: tuple[str, ...] = (), *, seed: int = 0
) -> list[MetricComparison]:
    """Compare every metric that both have, or those that are asked for.

    Raises:
        StageError: the runs were judged on other users, items, events or splits; or a metric is unknown.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"ndcg@10": np.linspace(0, 1, 40)}, index=pd.Index(range(40), name="user_id"))
        >>> better = compare_runs(UserValues(table + 0.01, {}), UserValues(table, {}))[0]
        >>> round(better.difference, 3), better.wins, better.p_value < 0.01
        (0.01, 40, True)
    """
    check_same_questions(first, second)
    shared = [name for name in first.table.columns if name in second.table.columns]
    unknown = [name for name in metrics if name not in shared]
    if unknown:
        raise StageError(f"--metric: must be among {', '.join(shared)}, received {', '.join(unknown)}.")
    other = second.table.loc[first.table.index]
    found = []
    for name in metrics or shared:
        one, two = first.table[name].to_numpy(float), other[name].to_numpy(float)
        if np.isnan(one).all():
            continue
        result = compare_paired(one, two, np.random.default_rng(seed))
        found.append((name, float(np.nanmean(one)), float(np.nanmean(two)), result))
    adjusted = holm_adjusted([result.p_value for *_, result in found])
    return [
        MetricComparison(
            name, one, two, result.difference, result.low, result.high, result.p_value, p, result.wins, result.losses,
            result.users,
        )
        for (name, one, two, result), p in zip(found, adjusted, strict=True)
    ]  # fmt: skip


def check_same_questions(first: UserValues, second: UserValues) -> None:
    """Refuses two runs that were not asked the same.

    Raises:
        StageError: names the parts that differ.
    """
    names = [*first.judged_on, *(name for name in second.judged_on if name not in first.judged_on)]
    different = [name for name in names if first.judged_on.get(name) != second.judged_on.get(name)]
    if not different and set(first.table.index) != set(second.table.index):
        different = ["test users"]
    if different:
        raise StageError(
            f"compare: both runs must be judged on the same data, these differ in {', '.join(different)}. Users can only "
            "be paired where the questions are the same: ingest one dataset folder with one [data] section and one "
            "evaluation.mask_splits for both."
        )


def read_judged(path: Path) -> UserValues:
    """Each user's values of a run folder, or of a release of it.

    A release has no figures of its own: those are its run's, provided that the run was last judged with the models that
    the release was made from.

    Raises:
        StageError: no such folder, nothing judged there, or the release is of other models.
    """
    release = path.parent.name == "releases"
    run = path.parent.parent if release else path
    judged = read_manifest(run / "evaluate")
    if judged is None:
        raise StageError(
            f"{run}: must hold a finished `evaluate` stage; run `python -m pipeline evaluate --out {run}`."
        )
    if release:
        manifest: dict[str, Any] = read_manifest(path) or {}
        made = (manifest.get("details") or {}).get("made_from") or {}
        other = [name for name, stage in MADE_FROM.items() if made.get(name) != judged["inputs"].get(stage)]
        if other:
            raise StageError(
                f"{path}: was made from other models ({', '.join(other)}) than {run} was judged with last; evaluate a copy "
                "of the run that still has them."
            )
    try:
        return read_user_values(run / "evaluate")
    except FileNotFoundError as error:
        raise StageError(str(error)) from error
