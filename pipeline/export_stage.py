"""From a finished run to a release: the towers, the index and the ranker with everything a request may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.config import Config
from pipeline.examples import interactions, positive_histories
from pipeline.stage import read_manifest
from ranking.serving_form import RankingServingForm
from serving.export import export_release
from serving.index_build import load_index
from serving.release import ReleaseError, list_releases, verify_release
from serving.request_history import ServingTables
from towers.two_tower import load_two_tower

EVERYTHING = ("train", "valid", "test")


def serving_tables(dataset: Dataset, ingested: Path, history_length: int) -> ServingTables:
    """What the server knows of every user when the log ends: profile, latest positive items, and everything ever shown.

    Evaluation stops at the test split; a server answers today, so here the whole log counts.
    """
    users = np.arange(dataset.schema.user_rows)
    seen = interactions(dataset, EVERYTHING, positive_only=False)
    return ServingTables(
        user_ids=ingested / "user_ids.txt",
        item_ids=ingested / "item_ids.txt",
        profile=dataset.profile,
        history=positive_histories(dataset, EVERYTHING).latest(users, history_length),
        seen_offsets=seen.offsets.astype(np.int64),
        seen_rows=seen.rows.astype(np.int32),
    )


def export_stage(dataset: Dataset, run: Path, config: Config) -> dict[str, Any]:
    """Publish the next version under `<run>/releases`, unless the newest one already holds exactly these models.

    A kill between publishing and the stage's own manifest therefore never leaves two releases of the same thing.
    """
    releases, folder = run / "releases", run / "retrieval" / "full"
    made_from = {name: (read_manifest(run / name) or {})["key"] for name in ("retrieval/full", "index", "ranking")}
    versions = list_releases(releases) if releases.is_dir() else []
    if versions:
        try:
            newest = verify_release(releases / str(versions[-1]))
        except ReleaseError:
            newest = None
        if newest is not None and newest.manifest["details"].get("made_from") == made_from:
            return {"version": newest.version, "fingerprint": newest.fingerprint, "published_before": True}
    two_tower = load_two_tower(folder)
    release = export_release(
        releases,
        versions[-1] + 1 if versions else 1,
        tables=serving_tables(dataset, run / "ingest", two_tower.config.history_length),
        user_tower=two_tower.user_tower,
        index=load_index(run / "index", "exact"),
        approximate_index=None if config.index.kind == "exact" else load_index(run / "index", config.index.kind),
        ranker=RankingServingForm.load(run / "ranking" / "serving_form"),
        details={"made_from": made_from},
    )
    return {"version": release.version, "fingerprint": release.fingerprint, "published_before": False}
