"""Stages: whole or not at all, skipped when nothing changed, safe to kill."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from pipeline.stage import PROCESSOR, StageError, folder_fingerprint, read_manifest, run_stage, stage_seconds


def quiet(line):
    return None


def test_skips_until_config_or_input_changes(tmp_path):
    calls = []

    def work(out, checkpoints):
        calls.append(1)
        (out / "x").write_text(str(len(calls)))
        return {"calls": len(calls)}

    first = run_stage(tmp_path, "a/b", work, config={"k": 1}, inputs={"in": "1"}, say=quiet)
    again = run_stage(tmp_path, "a/b", work, config={"k": 1}, inputs={"in": "1"}, say=quiet)
    assert not first.skipped and again.skipped and first.key == again.key and len(calls) == 1
    assert not run_stage(tmp_path, "a/b", work, config={"k": 2}, inputs={"in": "1"}, say=quiet).skipped
    assert not run_stage(tmp_path, "a/b", work, config={"k": 2}, inputs={"in": "2"}, say=quiet).skipped
    assert (tmp_path / "a/b/x").read_text() == "3"


def test_a_failed_stage_leaves_the_old_folder(tmp_path):
    def good(out, checkpoints):
        (out / "x").write_text("old")
        return {}

    def bad(out, checkpoints):
        (out / "x").write_text("half")
        raise RuntimeError("disk full")

    run_stage(tmp_path, "s", good, config={}, inputs={}, say=quiet)
    with pytest.raises(RuntimeError, match="disk full"):
        run_stage(tmp_path, "s", bad, config={"new": 1}, inputs={}, say=quiet)
    assert (tmp_path / "s/x").read_text() == "old"
    assert not run_stage(tmp_path, "s", good, config={"new": 1}, inputs={}, say=quiet).skipped


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.stage import run_stage
def work(out, checkpoints):
    mark = checkpoints / "half"
    if mark.exists():
        (out / "x").write_text("resumed")
        return {}
    mark.write_text("1"); (out / "x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
run_stage(Path(sys.argv[1]), "s", work, config={"c": sys.argv[2]}, inputs={}, say=lambda line: None)
"""


def test_kill_leaves_nothing_half_written_and_checkpoints_survive(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    assert subprocess.run([*command, "1"], env=environment).returncode == -signal.SIGKILL
    assert read_manifest(tmp_path / "s") is None and not (tmp_path / "s").exists()
    subprocess.run([*command, "1"], env=environment, check=True)
    assert (tmp_path / "s/x").read_text() == "resumed"
    # Another config must not resume from this one's checkpoints.
    assert subprocess.run([*command, "2"], env=environment).returncode == -signal.SIGKILL
    assert (tmp_path / "s/x").read_text() == "resumed"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".checkpoints")] != []


def test_source_fingerprint_sees_a_changed_file(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.png").write_bytes(b"1")
    before = folder_fingerprint(tmp_path)
    assert before == folder_fingerprint(tmp_path)
    (tmp_path / "media/a.png").write_bytes(b"22")
    assert before != folder_fingerprint(tmp_path)
    with pytest.raises(StageError, match="convert"):
        folder_fingerprint(tmp_path / "nowhere")


def test_source_fingerprint_looks_into_linked_folders_once(tmp_path):
    source, disk = tmp_path / "source", tmp_path / "disk"
    for folder in (source, disk / "deep"):
        folder.mkdir(parents=True)
    (disk / "deep/a.png").write_bytes(b"1")
    alone = folder_fingerprint(source)
    (source / "media").symlink_to(disk)
    (disk / "deep/again").symlink_to(disk)  # a circle must end
    (source / "nowhere").symlink_to(tmp_path / "nothing")
    (source / "itself").symlink_to(source / "itself")
    linked = folder_fingerprint(source)
    (disk / "deep/a.png").write_bytes(b"22")
    assert len({alone, linked, folder_fingerprint(source)}) == 3


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "media").mkdir()
    real = os.scandir

    def denied(path):
        if str(path).endswith("media"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StageError, match=r"media cannot be read \(Permission denied\)"):
        folder_fingerprint(tmp_path)


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "encode").mkdir()
    (tmp_path / "encode/manifest.json").write_text("{")
    with pytest.raises(StageError, match=r"encode/manifest\.json: must be JSON"):
        stage_seconds(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"", b"\0", b"\xff"])
def test_a_stage_with_a_broken_manifest_is_made_again(tmp_path, content):
    def work(out, checkpoints):
        (out / "x").write_text("made")
        return {}

    first = run_stage(tmp_path, "encode", work, config={}, inputs={}, say=quiet)
    (tmp_path / "encode/manifest.json").write_bytes(content)
    again = run_stage(tmp_path, "encode", work, config={}, inputs={}, say=quiet)
    assert not again.skipped and again.key == first.key == read_manifest(tmp_path / "encode")["key"]
    assert run_stage(tmp_path, "encode", work, config={}, inputs={}, say=quiet).skipped


def test_seconds_of_stages_add_up_over_their_variants(tmp_path):
    for place, stage, seconds in (("gate", "gate", 1), ("linear/a", "linear/a", 2), ("linear/b", "linear/b", 4)):
        (tmp_path / place).mkdir(parents=True)
        told = {"stage": stage, "seconds": seconds, "processor_seconds": 10 * seconds}
        (tmp_path / place / "manifest.json").write_text(json.dumps(told))
    assert list(stage_seconds(tmp_path).items()) == [("linear", 6.0), ("gate", 1.0)]
    assert stage_seconds(tmp_path, PROCESSOR) == {"linear": 60.0, "gate": 10.0}
