"""Releases without a person: whose models are published again, and what becomes of those that never were."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from data.ingest import IngestOptions, ingest
from pipeline.__main__ import app
from pipeline.forget import release as forget_release
from pipeline.forget.proof import Searched
from pipeline.forget.release import replace_releases
from pipeline.forget.run import forget_in_run
from pipeline.forget.user import Forgotten, forget_user
from pipeline.nightly.record import JobRecord, write_outcome
from pipeline.reproduce_record import write_settings
from pipeline.settings.config import Config, load_config
from serving.releases.labels import read_labels
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases, publish
from tests.serving.release_files import publish_all, write_files

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
    again = published_again(releases, monkeypatch)
    assert replace_releases(tmp_path, None, Config(), IDS, say=str) == 7 and again == [4]
    assert str(read_labels(releases)) == "stable 7" and list_releases(releases) == [7]


def published_again(releases: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whose models are exported again, as release 7."""
    again: list[int] = []

    def publish(out, data, config, version, say):
        again.append(version)
        if 7 not in list_releases(releases):
            publish_all(releases, 7)
        return 7

    monkeypatch.setattr(forget_release, "_publish", publish)
    return again


def test_an_undecided_canary_is_withdrawn_and_the_stable_release_answers(tmp_path, monkeypatch):
    releases = publish_all(tmp_path / "releases", 4, 5, 6)
    promote(releases, 4)
    promote(releases, 6, "canary")
    know(releases / "6")
    again, said = published_again(releases, monkeypatch), []
    assert replace_releases(tmp_path, None, Config(), IDS, say=said.append) == 7 and again == [4]
    assert str(read_labels(releases)) == "stable 7" and list_releases(releases) == [7]
    assert "withdrawing release 6, the canary" in said[0] and "4, 5, 6" in said[-1]


def test_a_kill_between_the_labels_puts_no_canary_in_force(tmp_path, monkeypatch):
    releases = publish_all(tmp_path / "releases", 4, 6)
    promote(releases, 4)
    promote(releases, 6, "canary")
    know(releases / "4")
    again = published_again(releases, monkeypatch)

    def killed(releases, version, to, servers=()):
        promote(releases, version, to, servers=servers)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forget_release, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            replace_releases(tmp_path, None, Config(), IDS, say=str)
    assert str(read_labels(releases)) == "stable 4, canary 7"
    assert replace_releases(tmp_path, None, Config(), IDS, say=str) == 7 and again == [4, 4]
    assert str(read_labels(releases)) == "stable 7" and list_releases(releases) == [7]


def test_without_labels_the_newest_release_is_published_again(tmp_path, monkeypatch):
    releases = publish_all(tmp_path / "releases", 4, 6)
    know(releases / "4")
    again = published_again(releases, monkeypatch)
    assert replace_releases(tmp_path, None, Config(), IDS, say=str) == 7 and again == [6]
    assert list_releases(releases) == [7]


def test_the_settings_are_those_of_the_release_that_is_published_again(tmp_path, monkeypatch):
    """Not of the newest job, whose release nobody has promoted."""
    stages = ("served/full", "index", "ranking", "policy")
    for number in (1, 2):
        run = tmp_path / "jobs" / f"000{number}"
        JobRecord(number, "", None, "", "", "", True).write(run)
        write_outcome(run, {"outcome": "published", "release": {"version": number}})
        write_settings(run, load_config(overrides=[f"ranking.history_length={10 * number}"]))
        for stage in stages:
            (run / stage).mkdir(parents=True)
            (run / stage / "manifest.json").write_text(f'{{"key": "{number}"}}')
        details = {"made_from": dict.fromkeys(stages, str(number))}
        with publish(tmp_path / "releases", number, details=details) as staging:
            write_files(staging, number)
    promote(tmp_path / "releases", 1)
    promote(tmp_path / "releases", 2, "canary")
    given: list[Config] = []

    def forget(user, out, *, config, **others):
        given.append(config)
        return Forgotten(0, 0, None, Searched(0, 0, True))

    monkeypatch.setattr("pipeline.forget.user.forget_user", forget)
    for promoted in (1, 2):
        if promoted == 2:
            promote(tmp_path / "releases")
        done = CliRunner().invoke(app, ["forget-user", "--user", WHO, "--out", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert [config.ranking.history_length for config in given] == [10, 20]


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
