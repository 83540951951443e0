"""Data checks before training: what came since the last release against what was there -> go, go with a warning, or stop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.dataset import Dataset

if TYPE_CHECKING:
    from pipeline.job_run import JobRun

REPORT = "checks.json"
GO, WARN, STOP = "go", "warn", "stop"
Verdict = Literal["go", "warn", "stop"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what. verdict: `go`, `warn` or `stop`. found: in words, with numbers. allowed: (warn, stop) bounds in
            words. skipped: why it says nothing, where there was too little to tell.
    """

    name: str
    verdict: Verdict
    found: str
    allowed: str = ""
    skipped: bool = False


def bounded(name: str, value: float, bounds: tuple[float, float], found: str) -> Check:
    """A check of a figure that should be small.

    Example:
        >>> bounded("share", 0.2, (0.1, 0.3), "a fifth").verdict, bounded("share", 0.3, (0.1, 0.3), "").verdict
        ('warn', 'stop')
    """
    verdict: Verdict = "stop" if value >= bounds[1] else "warn" if value >= bounds[0] else "go"
    return Check(name, verdict, found, f"warning from {bounds[0]:g}, stop from {bounds[1]:g}")


def skipped(name: str, why: str) -> Check:
    """A check that had too little to look at."""
    return Check(name, "go", why, skipped=True)


@dataclasses.dataclass(frozen=True)
class NewData:
    """What came since the last release, in the job's rows.

    Attributes:
        dataset: the job's. previous: the one that the last release was made from.
        new: bool [E], events that it did not have, by time. reference: bool [E], the days before.
        new_items: rows of the items that it did not have.
    """

    dataset: Dataset
    previous: Dataset
    new: np.ndarray
    reference: np.ndarray
    new_items: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, previous: Dataset, reference_days: int) -> NewData:
        """The split of what came. New are the events later than the last one that was known."""
        time, until = dataset.events["timestamp"].to_numpy(), int(previous.events["timestamp"].max())
        reference = (time <= until) & (time > until - reference_days * 86_400)
        return cls(dataset, previous, time > until, reference, np.arange(previous.schema.item_rows, len(dataset.items)))

    def visits(self, chosen: np.ndarray) -> np.ndarray:
        """The first event of every user and day among the chosen (bool [E]); events lie by user and time. [V]"""
        rows = np.flatnonzero(chosen)
        user, day = (self.dataset.events[name].to_numpy()[rows] for name in ("user", "timestamp"))
        day = day // 86_400
        first = np.ones(len(rows), bool)
        first[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
        return rows[first]


def check_data(run: JobRun, out: Path) -> dict[str, Any]:
    """Look at a job's data and write `checks.json` into `out`.

    Returns: `decision` (the worst verdict), and how many warnings and stops there are. Without a last release there is
        nothing to compare with: the checks say so, and the ingest has refused what is no data at all.
    """
    from pipeline.data_checks_events import event_checks
    from pipeline.data_checks_media import media_checks

    checks: list[Check] = []
    if run.parent is None:
        checks.append(skipped("comparison", "there is no release before"))
    else:
        section = run.config.checks
        data = NewData.of(run.dataset(), Dataset.load(run.parent / "ingest"), section.reference_days)
        checks += event_checks(data, section, run.parent)
        checks += media_checks(data, section, run.store(), run.parent)
    decision = worst(checks)
    report = {"decision": decision, "checks": [dataclasses.asdict(check) for check in checks]}
    (out / REPORT).write_text(json.dumps(report, indent=2))
    counted = {name: sum(check.verdict == name for check in checks) for name in (WARN, STOP)}
    stopped = [f"{check.name}: {check.found}" for check in checks if check.verdict == STOP]
    return {"decision": decision, "checks": len(checks), **counted, "stopped_by": stopped}


def worst(checks: Sequence[Check]) -> Verdict:
    """
    >>> worst([Check("a", "go", ""), Check("b", "warn", "")])
    'warn'
    """
    order: tuple[Verdict, ...] = ("go", "warn", "stop")
    return order[max((order.index(check.verdict) for check in checks), default=0)]
