"""Which run the current release came from, whatever has been published and withdrawn since."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.nightly import job as job_module
from pipeline.nightly.job import open_job, run_job
from pipeline.nightly.record import (
    JobRecord,
    clear_up,
    current_run,
    next_version,
    outcome_of,
    released_folder,
    write_outcome,
)
from pipeline.settings.config import load_config
from pipeline.stage import StageError
from serving.releases.promotion import promote, roll_back
from tests.serving.release_files import publish_all


def job(out: Path, number: int, version: int) -> Path:
    """A finished job that published a release, with a stage of its own."""
    folder = out / "jobs" / f"{number:04d}"
    JobRecord(number, "", None, "source", "settings", "code", False).write(folder)
    (folder / "ingest").mkdir()
    write_outcome(folder, {"outcome": "published", "release": {"version": version, "fingerprint": ""}})
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Releases 4, 5 and 6 of jobs 1, 2 and 3, beside 3 of the run folder itself; 3 has been stable, and 4 is."""
    releases = publish_all(tmp_path / "releases", 3, 4, 5, 6)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "manifest.json").write_text(json.dumps({"key": "", "counts": {}}))
    for number, version in ((1, 4), (2, 5), (3, 6)):
        job(tmp_path, number, version)
    promote(releases, 3)
    promote(releases, 4, "canary")
    promote(releases)
    return tmp_path


def test_a_release_withdrawn_before_the_last_one_is_not_current_again(out: Path):
    assert current_run(out) == out / "jobs" / "0003"
    promote(out / "releases", 5, "canary")
    roll_back(out / "releases")
    assert current_run(out) == out / "jobs" / "0003", "6 is newer than what was withdrawn"
    promote(out / "releases", 6, "canary")
    roll_back(out / "releases")
    assert current_run(out) == out / "jobs" / "0001" and released_folder(out / "jobs" / "0001") == out / "releases" / "4"
    publish_all(out / "releases", 7)
    newest = job(out, 4, 7)
    assert current_run(out) == newest


def test_the_release_of_a_run_that_is_no_job_is_none_that_was_withdrawn(out: Path):
    releases = out / "releases"
    promote(releases, 3)  # back to what was stable before
    promote(releases, 6, "canary")
    roll_back(releases)
    assert current_run(out) == out and released_folder(out) == releases / "3"


def test_a_release_whose_folder_was_taken_away_is_made_again_with_a_number_of_its_own(tmp_path: Path):
    source, out, config = tmp_path / "source", tmp_path / "run", load_config()
    source.mkdir()
    for number, version in ((1, 1), (2, 2)):
        record, folder = open_job(source, out, config, False)
        assert record.number == number
        publish_all(out / "releases", version)
        write_outcome(folder, {"outcome": "published", "release": {"version": version, "fingerprint": ""}})
        (source / "log").write_text(str(number))  # the next job has other data
    (source / "log").write_text("the last job's")
    record, folder = open_job(source, out, config, False)
    publish_all(out / "releases", 3)
    write_outcome(folder, {"outcome": "published", "release": {"version": 3, "fingerprint": ""}})
    assert open_job(source, out, config, False) == (record, folder)
    promote(out / "releases", 2)
    promote(out / "releases", 3, "canary")
    roll_back(out / "releases")
    shutil.rmtree(out / "releases" / "3")
    assert open_job(source, out, config, False) == (record, folder), "it was withdrawn, and is not wanted back"
    promote(out / "releases", 1, "canary")  # no release is withdrawn any more
    again, place = open_job(source, out, config, False)
    assert (again.number, again.parent, next_version(out)) == (4, "jobs/0002", 4)
    assert open_job(source, out, config, False) == (again, place), "an interrupted one goes on"


def test_clearing_up_leaves_the_run_of_the_stable_release(out: Path):
    clear_up(out, keep=1)
    left = [folder.name for folder in sorted((out / "jobs").iterdir()) if (folder / "ingest").is_dir()]
    assert left == ["0001", "0003"]


def test_after_nights_without_a_release_a_rollback_still_has_a_run_to_go_on_from(out: Path):
    promote(out / "releases", 5, "canary")
    promote(out / "releases")
    promote(out / "releases", 6, "canary")
    promote(out / "releases")  # 6 is stable, 5 is the previous one
    for number in (4, 5):
        folder = job(out, number, 0)
        write_outcome(folder, {"outcome": "kept", "release": None})
    clear_up(out, keep=2)
    left = [folder.name for folder in sorted((out / "jobs").iterdir()) if (folder / "ingest").is_dir()]
    assert left == ["0002", "0003", "0004", "0005"]
    roll_back(out / "releases")
    assert current_run(out) == out / "jobs" / "0002"


def test_nights_that_fail_leave_one_folder_to_go_on_with_and_the_finished_ones(out: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(source, out, config, record, folder, *others):
        (folder / "encode").mkdir(exist_ok=True)
        raise StageError("no disk")

    monkeypatch.setattr(job_module, "work", failing)
    source = out / "source"
    source.mkdir()
    for night in range(4):
        (source / "interactions.parquet").write_text("more" * night)
        with pytest.raises(StageError, match="no disk"):
            run_job(source, out, load_config(overrides=["job.keep=2"]), say=str)
    folders = [folder for folder in sorted((out / "jobs").iterdir()) if folder.name.isdigit()]
    assert [folder.name for folder in folders if (folder / "encode").is_dir()] == ["0007"], "the one to go on with"
    assert [(outcome_of(folder) or {}).get("outcome") for folder in folders[3:]] == ["superseded"] * 3 + [None]
    whole = [folder.name for folder in folders if (folder / "ingest").is_dir()]
    assert whole == ["0001", "0002", "0003"], "the newest two that ended, and the run of the stable release"
