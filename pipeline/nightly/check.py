"""One check of new data, and what it says: go, go with a warning, or stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

WARN, STOP = "warn", "stop"
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


def worst(checks: Sequence[Check]) -> Verdict:
    """
    >>> worst([Check("a", "go", ""), Check("b", "warn", "")])
    'warn'
    """
    order: tuple[Verdict, ...] = ("go", "warn", "stop")
    return order[max((order.index(check.verdict) for check in checks), default=0)]
