"""What a user reads who has asked for something that cannot be done: one line, and nothing has been touched."""

import sys

import pandas as pd
import pytest

import pipeline.__main__ as command_line
from pipeline.commands.own_settings import own_settings
from pipeline.nightly.record import JobRecord, write_outcome
from pipeline.reproduce_record import write_settings
from pipeline.settings.config import Config, load_config
from pipeline.settings.retrieval import RetrievalConfig
from pipeline.stage import StageError


@pytest.fixture
def told(monkeypatch, capsys):
    for name in ("keep_freed_memory", "collect_garbage_seldom"):  # of a process that is not ours alone
        monkeypatch.setattr(f"pipeline.allocation.{name}", lambda: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


def test_a_conversion_that_leaves_nothing_says_why_and_writes_nothing(told, tmp_path):
    log = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "part": ["train", "test"]})
    log.to_csv(tmp_path / "log.csv", index=False)
    out = tmp_path / "data"
    said = told(
        "convert", "--format", "table", "--source", tmp_path, "--interactions", "log.csv", "--split", "part", "--out", out
    )
    assert "no interaction is left (2 interactions: rows outside the split part" in said and "--split-code" in said
    assert not out.exists()


def test_a_run_without_a_release_is_a_line_and_no_traceback(told, tmp_path):
    assert told("recommend", "--user", "x", "--out", tmp_path / "nowhere").startswith("error: ")


def test_forget_user_asks_for_the_settings_before_it_touches_anything(told, tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    run.mkdir(), data.mkdir()
    pd.DataFrame({"user_id": ["a"], "item_id": ["x"]}).to_parquet(data / "interactions.parquet")
    assert "--config" in told("forget-user", "--user", "a", "--out", run, "--data", data)
    assert len(pd.read_parquet(data / "interactions.parquet")) == 1


def test_commands_on_a_run_take_its_own_settings(told, tmp_path):
    made = Config(retrieval=RetrievalConfig(width=24))
    with pytest.raises(StageError, match="--config"):
        own_settings(tmp_path, None)
    assert own_settings(tmp_path, tmp_path / "given.toml") == tmp_path / "given.toml"
    write_settings(tmp_path, made)
    assert load_config(own_settings(tmp_path, None)) == made
    job = tmp_path / "jobs" / "0001"  # what answers was made by a job, with settings of its own
    JobRecord(1, "", None, "", "", "", True).write(job)
    write_outcome(job, {"outcome": "published", "release": {"version": 1}})
    later = Config(retrieval=RetrievalConfig(width=48))
    write_settings(job, later)
    assert load_config(own_settings(tmp_path, None)) == made  # nothing of it is released yet
    release = tmp_path / "releases" / "1"
    release.mkdir(parents=True)
    (release / "manifest.json").write_text("{}")
    assert load_config(own_settings(tmp_path, None)) == later
    assert load_config(own_settings(tmp_path, None, tmp_path)) == made  # of the run that is worked on, whatever is newer
    assert load_config(own_settings(tmp_path, None, job)) == later
    with pytest.raises(StageError, match="0009 does not say"):
        own_settings(tmp_path, None, tmp_path / "jobs" / "0009")
    assert "--config" in told("robustness", "--out", tmp_path / "nowhere")
    gone = tmp_path / "gone.toml"
    assert "--config" in told("follow", "--out", tmp_path / "nowhere", "--log", tmp_path / "log", "--config", gone)
