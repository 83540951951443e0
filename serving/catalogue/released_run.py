"""Which run a release came from: the run folder's own stages, or those of one of its jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.release_number import base_version
from serving.releases.labels import STABLE, read_labels
from serving.releases.manifest import ReleaseError, read_release
from serving.releases.release import list_releases

STAGES = ("served/full", "index", "ranking", "policy")
"""Stages whose keys, which a release keeps, tell one run from all others."""


def run_made_from(run: Path, made_from: Mapping[str, Any]) -> Path | None:
    """The run folder, or that of a job in it, whose models a release has; None where they are no longer there.

    Args:
        made_from: what the release's manifest keeps of it, with the keys of `STAGES`.
    """
    places = (*sorted((run / "jobs").glob("[0-9]*"), reverse=True), run)
    return next((place for place in places if all(_has(place, stage, made_from) for stage in STAGES)), None)


def ingested_folder(run: Path, version: int) -> Path:
    """The ingested folder that a release, or an update of it, was made from: whom and what it knows stands there.

    Jobs ingest into folders of their own, `jobs/<number>/ingest`. Where nothing tells, as before the first release, it is the
    folder of the run itself, or of the newest job where the run has none.

    Args:
        run: the run folder, with `releases/`. version: of the release that answers; 0 = not known.
    """
    try:
        made_from = read_release(run / "releases" / str(base_version(version))).manifest["details"]["made_from"]
    except (ReleaseError, KeyError):
        made_from = {}
    ingested = [place.parents[1] for place in sorted(run.glob("jobs/[0-9]*/ingest/items.parquet"))]
    if (run / "ingest" / "items.parquet").is_file() or not ingested:
        ingested.append(run)
    return (run_made_from(run, made_from) or ingested[-1]) / "ingest"


def answering_label(run: Path, label: str | None) -> str | None:
    """The label to ask for: that which is given, `stable` without one where releases are labelled, else none.

    A server holds a canary, and a release that was withdrawn, beside the stable one: the highest version is not the one that
    is meant.
    """
    if label is None and read_labels(run / "releases").stable is not None:
        return STABLE
    return label or None


def answering_version(run: Path, label: str | None) -> int:
    """The release that a label stands for; the newest without one, 0 where there is none."""
    releases = run / "releases"
    newest = list_releases(releases)[-1:]
    return read_labels(releases).as_dict().get(label or "", newest[0] if newest else 0)


def _has(place: Path, stage: str, made_from: Mapping[str, Any]) -> bool:
    """Whether a run has finished the very stage that a release was made from."""
    file = place / stage / "manifest.json"
    return stage in made_from and file.is_file() and json.loads(file.read_text()).get("key") == made_from[stage]
