"""Which run a release came from: the run folder's own stages, or those of one of its jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.release_number import base_version
from serving.releases.labels import STABLE, read_labels
from serving.releases.manifest import ReleaseError, read_release
from serving.releases.release import list_releases

STAGES = ("index", "ranking")
"""Stages whose keys, which a release keeps, tell one run from all others."""


def ingested_folder(run: Path, version: int) -> Path:
    """The ingested folder that a release, or an update of it, was made from: whom and what it knows stands there.

    Jobs ingest into folders of their own, `jobs/<number>/ingest`. Where nothing tells, as before the first release, it is the
    folder of the run itself, or of the newest job where the run has none.

    Args:
        run: the run folder, with `releases/`. version: of the release that answers; 0 = not known.
    """
    jobs = sorted((run / "jobs").glob("[0-9]*"), reverse=True)
    ingested = [place for place in (*jobs, run) if (place / "ingest" / "items.parquet").is_file()]
    try:
        made_from = read_release(run / "releases" / str(base_version(version))).manifest["details"]["made_from"]
    except (ReleaseError, KeyError):
        made_from = {}
    for place in ingested:
        if made_from and all(_key(place / stage) == made_from.get(stage) for stage in STAGES):
            return place / "ingest"
    return (ingested[0] if ingested and run not in ingested else run) / "ingest"


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


def _key(stage: Path) -> Any:
    """The key of a finished stage; None where it is not finished."""
    file = stage / "manifest.json"
    return json.loads(file.read_text()).get("key") if file.is_file() else None
