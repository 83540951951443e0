"""Releases without a person: whose models are published again, and what becomes of those that never were."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from data.ingest import IngestOptions, ingest
from pipeline.forget import release as forget_release
from pipeline.forget.release import replace_releases
from pipeline.forget.run import forget_in_run
from pipeline.forget.user import forget_user
from pipeline.nightly.record import JobRecord, write_outcome
from pipeline.settings.config import Config
from serving.releases.labels import read_labels
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases
from tests.serving.release_files import publish_all

WHO = "person-17"
IDS = frozenset([WHO])


def know(release: Path) -> Path:
    """Makes a release know the person."""
    users = release / "retrieval" / release.name / "assets" / "users.txt"
    users.parent.mkdir(parents=True)
    users.write_text(f"\n{WHO}\nperson-1")
    return release


def test_what_was_withdrawn_is_not_put_into_production(tmp_path, monkeypatch):
    releases = publish_all(tmp_path / "releases", 4, 5, 6)
    promote(releases, 4)
    for number in (5, 6):
        promote(releases, number, "canary")
        roll_back(releases)
    know(releases / "4")
    again = []

    def publish(out, data, config, newest, say):
        again.append(newest)
        publish_all(releases, 7)
        return 7

    monkeypatch.setattr(forget_release, "_publish", publish)
    assert replace_releases(tmp_path, None, Config(), IDS, say=str) == 7 and again == [4]
    assert str(read_labels(releases)) == "stable 7" and list_releases(releases) == [7]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job of a run folder, with a candidate that knows the person in its own `releases/`."""
    data, folder = tmp_path / "data", tmp_path / "run" / "jobs" / "0002"
    data.mkdir()
    users = [WHO, "person-1", "person-2"]
    events = {"user_id": users * 4, "item_id": [f"i{row % 5}" for row in range(12)], "timestamp": range(1_000, 1_012)}
    pd.DataFrame(events).to_parquet(data / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{row}" for row in range(5)]}).to_parquet(data / "items.parquet")
    ingest(data, folder / "ingest", IngestOptions(split="random"))
    JobRecord(2, "", None, "source", "settings", "code", False).write(folder)
    know(publish_all(folder / "releases", 3) / "3")
    for stage in ("export", "gate"):
        (folder / stage).mkdir()
        (folder / stage / "manifest.json").write_text('{"key": "", "counts": {"version": 3}}')
    return folder


@pytest.mark.parametrize("outcome", ["kept", ""])
def test_a_candidate_that_was_not_published_goes(job: Path, tmp_path: Path, outcome: str):
    """What is left of a job that is finished tells why; one that is not exports and judges its candidate again."""
    if outcome:
        write_outcome(job, {"outcome": outcome, "release": None})
    run = job.parent.parent
    assert forget_user(WHO, run, data=tmp_path / "data").release is None
    assert not (job / "releases").exists()
    assert [(job / stage).exists() for stage in ("export", "gate")] == [bool(outcome)] * 2
    # One whose vocabulary has lost the person already, as an earlier call left it.
    know(publish_all(job / "releases", 3) / "3")
    forget_user(WHO, run, data=tmp_path / "data")
    assert not (job / "releases").exists()


def test_the_candidate_stays_where_it_does_not_know_the_person(job: Path):
    forget_in_run(job, frozenset(["person-99"]))
    assert (job / "releases" / "3" / "manifest.json").is_file() and (job / "export").is_dir()
