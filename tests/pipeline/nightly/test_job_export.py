"""The process that exports for a job: it fails in the job's words, and ends when nobody needs it any more."""

import json
import signal
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.nightly.beside import report_again
from pipeline.nightly.export import INDEX, Exporter
from pipeline.nightly.gate_judge import judge_current
from pipeline.nightly.process import JobProcess
from pipeline.nightly.training import fit_linear_tower
from pipeline.settings.config import Config
from pipeline.stage import StageError


def test_an_export_that_fails_says_why(tmp_path):
    exporter = Exporter("fork")
    exporter.begin(tmp_path, tmp_path / "job", Config(), 1, None)
    process = exporter._process
    exporter.go_on(INDEX)
    with pytest.raises(StageError, match=r"export: StageError: .*ingest is not there yet"):
        exporter.finish()
    assert process.exitcode == 1


def test_nobody_waits_for_one_that_was_not_asked():
    with Exporter("fork").start() as exporter:
        process = exporter._process
        exporter.go_on(INDEX)  # says nothing to one that has not begun
        assert process.is_alive()
    assert process.exitcode == 0


def test_a_job_that_fails_meanwhile_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.nightly.export._made", lambda *order, ready: ready() or time.sleep(60))
    with pytest.raises(ValueError, match="broken"), Exporter("fork") as exporter:
        exporter.begin(tmp_path, tmp_path / "job", Config(), 1, None)
        process = exporter._process
        raise ValueError("broken")
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("work", [fit_linear_tower, judge_current])
def test_what_works_beside_a_job_ends_without_one_and_where_it_fails(work, tmp_path):
    with JobProcess(work, "fork").start() as beside:
        process = beside._process
        beside.wait()  # it was asked nothing, so there is nothing to wait for
        assert process.is_alive()
    assert process.exitcode == 0
    with JobProcess(work, "fork").start() as beside:
        beside.order(tmp_path, tmp_path / "job", Config(), tmp_path / "parent")
        process = beside._process
        assert beside.answer()[0] is None  # the job does it itself, and says why it cannot
    assert process.exitcode == 1


def untidy(waits, *, ready):
    folder = tempfile.mkdtemp()
    (Path(folder) / "ids.txt").write_text("somebody")
    while waits:
        time.sleep(60)
    return folder


@pytest.mark.parametrize("waits", [False, True])
def test_it_leaves_no_temporary_file_whether_it_ends_or_is_ended(waits, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with JobProcess(untidy, "fork").start() as beside:
        beside.order(waits)
        while not list(tmp_path.rglob("ids.txt")):
            time.sleep(0.01)
        made, failure = (None, "") if waits else beside.answer()
    assert not failure and (waits or made.startswith(str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_what_is_known_is_reported_before_the_job_has_decided(tmp_path):
    def finished(stage):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "manifest.json").write_text(json.dumps({"stage": stage, "seconds": 1.5, "counts": {}}))

    def told():
        return json.loads((tmp_path / "report.json").read_text())["seconds"]

    finished("encode")
    with JobProcess(report_again, "fork").start() as beside:
        beside.order(tmp_path, None)
        deadline = time.monotonic() + 60
        while not (tmp_path / "report.html").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert told() == {"encode": 1.5}
        finished("gate")
        beside.go_on()
        assert beside.answer() == (True, "") and told() == {"encode": 1.5, "gate": 1.5}
        assert beside.answer()[0] is None  # it has ended
