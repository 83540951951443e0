"""Exit codes: 2 is for whoever typed the command, 12 and 13 are for schedulers."""

import errno
import os
import sys

import pandas as pd
import pytest
import typer

import pipeline.__main__ as command_line
from data.durable_file import WriteError
from data.validation import DatasetError
from pipeline.commands.exit_code import telling_failures
from pipeline.nightly.lock import LockedError
from pipeline.settings.config import ConfigError
from pipeline.stage import StageError
from serving.feedback.kafka_source import KafkaSourceError
from serving.releases.manifest import ReleaseError


@pytest.mark.parametrize("known", [StageError, DatasetError, ReleaseError, WriteError, KafkaSourceError])
def test_what_may_pass_is_13_and_a_line(known, capsys):
    with pytest.raises(typer.Exit) as ended, telling_failures():
        raise known("the disk is full")
    assert ended.value.exit_code == 13 and capsys.readouterr().err == "failed: the disk is full\n"


def test_others_at_work_are_12_what_nobody_knows_is_told_whole_and_codes_pass(capsys):
    for error, code, said in (
        (LockedError("by process 7"), 12, "locked: by process 7\n"),
        (ZeroDivisionError("by nothing"), 13, "ZeroDivisionError: by nothing\n"),
        (typer.Exit(10), 10, ""),
    ):
        with pytest.raises(typer.Exit) as ended, telling_failures():
            raise error
        told = capsys.readouterr().err
        assert ended.value.exit_code == code and told.endswith(said) and ("Traceback" in told) == (code == 13)
    with pytest.raises(ConfigError, match="no such setting"), telling_failures():
        raise ConfigError("no such setting")


def test_feedback_that_a_full_disk_refuses_may_be_added_later(tmp_path, monkeypatch, capsys):
    for name in ("keep_freed_memory", "collect_garbage_seldom"):  # of a process that is not ours alone
        monkeypatch.setattr(f"pipeline.allocation.{name}", lambda: None)
    monkeypatch.setattr(sys, "argv", ["pipeline", "add-feedback", "--state", str(tmp_path), "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2 and "must be a dataset folder" in capsys.readouterr().err
    pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [1]}).to_parquet(tmp_path / "interactions.parquet")

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("serving.feedback.compact.compact", full)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 13 and "failed: [Errno 28] No space left on device" in capsys.readouterr().err
