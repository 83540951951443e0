"""Data checks before training: what came since the last release against what was there -> go, go with a warning, or stop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.dataset import Dataset
from pipeline.nightly.check import STOP, WARN, Check, skipped, worst
from pipeline.nightly.data_checks_events import ahead_check, event_checks, silence_check
from pipeline.nightly.data_checks_media import media_checks
from pipeline.nightly.new_data import NewData
from pipeline.nightly.record import JobRecord
from pipeline.nightly.wanted import Wanted
from pipeline.stage import read_manifest

if TYPE_CHECKING:
    from pipeline.nightly.folder import JobFolder

REPORT = "checks.json"


def check_data(run: JobFolder, out: Path) -> dict[str, Any]:
    """Look at a job's data and write `checks.json` into `out`.

    Returns: `decision` (the worst verdict), and how many warnings and stops there are. Without a last release there is
        nothing to compare with: the checks say so, and the ingest has refused what is no data at all.
    """
    dataset = run.dataset()
    checks: list[Check] = [ahead_check(dataset), silence_check(dataset)]
    if run.parent is None:
        checks.append(skipped("comparison", "there is no release before"))
    else:
        section = run.config.checks
        data = NewData.of(dataset, Dataset.load(run.parent / "ingest"), section.reference_days)
        wanted = Wanted(run.config.data, run.config.encoders, run.full)
        checks += event_checks(data, section, run.parent, wanted, asked=asked_for_more(run, run.parent))
        checks += media_checks(data, section, run.store(), run.parent, wanted)
    decision = worst(checks)
    report = {"decision": decision, "checks": [dataclasses.asdict(check) for check in checks]}
    (out / REPORT).write_text(json.dumps(report, indent=2))
    counted = {name: sum(check.verdict == name for check in checks) for name in (WARN, STOP)}
    stopped = [f"{check.name}: {check.found}" for check in checks if check.verdict == STOP]
    return {"decision": decision, "checks": len(checks), **counted, "stopped_by": stopped}


def asked_for_more(run: JobFolder, parent: Path) -> bool:
    """Whether a job is for something else than new events: it trains in full, has other settings than the last release's job,
    or the very folder that the last release was made from. Nobody waits for events that it does not have."""
    now, then = JobRecord.read(run.folder), JobRecord.read(parent)
    if run.full or (now is not None and then is not None and now.settings != then.settings):
        return True
    sources = [((read_manifest(folder / "ingest") or {}).get("inputs") or {}).get("source") for folder in (run.folder, parent)]
    return sources[0] is not None and sources[0] == sources[1]
