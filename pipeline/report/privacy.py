"""The privacy part of the report: what the two towers promise every user, in figures and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.stage import read_manifest


def privacy_account(run: Path) -> dict[str, Any] | None:
    """What training the served towers has spent, as its manifest says; None where they are not private."""
    manifest = read_manifest(run / "retrieval" / "full") or {}
    return (manifest.get("counts") or {}).get("privacy")


def privacy_words(account: Mapping[str, Any] | None) -> str:
    """One sentence for the top of the report; "" where nothing was promised.

    Example:
        >>> words = privacy_words({"epsilon": 2.9996, "delta": 4e-4, "steps": 120, "noise_multiplier": 1.234})
        >>> words[:95]
        'The two towers are differentially private for every user: epsilon 3.00 at delta 0.0004, 120 ste'
        >>> privacy_words(None)
        ''
    """
    if not account:
        return ""
    return (
        f"The two towers are differentially private for every user: epsilon {account['epsilon']:.2f} at delta "
        f"{account['delta']:g}, {account['steps']} steps under noise of {account['noise_multiplier']:.2f} times the clip; the "
        f"ranking model and the figures of this report are not covered."
    )
