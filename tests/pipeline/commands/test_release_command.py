"""`python -m pipeline release`: what it prints, what it changes, and when it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.commands.release import release_app
from pipeline.stage import StageError
from tests.serving.release_files import publish_all


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with releases 1 to 4."""
    publish_all(tmp_path / "releases", 1, 2, 3, 4)
    return tmp_path


def call(run: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(release_app, [*arguments, "--out", str(run)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_a_release_goes_from_canary_to_stable_and_back(run: Path):
    assert "no release is labelled → stable 1" in call(run, "promote", "1")
    assert "stable 1 → stable 1, canary 4" in call(run, "promote", "--to", "canary")
    rows = json.loads(call(run, "list", "--json"))
    assert [(row["version"], row["label"]) for row in rows] == [(1, "stable"), (2, ""), (3, ""), (4, "canary")]
    assert [row["counts"]["items"] for row in rows] == [1, 2, 3, 4]
    assert "stable 1, canary 4 → stable 4, previous 1" in call(run, "promote")
    assert "stable 4, previous 1 → stable 1, withdrawn 4" in call(run, "rollback")
    table = [line.split() for line in call(run, "list").splitlines()]
    assert next(line for line in table if line[:1] == ["4"])[1] == "withdrawn"


def test_a_canary_that_waits_for_a_decision_has_a_code_of_its_own(run: Path):
    call(run, "promote", "1")
    call(run, "promote", "2", "--to", "canary")
    assert "undecided: version: release 2 is the canary still" in call(run, "promote", "--to", "canary", "--if-new", code=14)
    assert "2 is canary already" in call(run, "promote", "2", "--to", "canary", code=13)


def test_show_tells_the_size_of_every_model(run: Path):
    facts = json.loads(call(run, "show", "2", "--json"))
    for name, size in facts["models"].items():
        files = (run / "releases" / "2" / name).rglob("*")
        assert size == sum(path.stat().st_size for path in files if path.is_file())
    assert facts["bytes"] > sum(facts["models"].values())  # the configs beside them
    assert "ranking" in call(run, "show")


def test_gc_says_and_then_does(run: Path):
    call(run, "promote", "1")
    planned = json.loads(call(run, "gc", "--newest", "1", "--json"))
    assert [Path(row["path"]).name for row in planned] == ["2", "3"]
    total = sum(row["bytes"] for row in planned)
    assert f"{total:,} bytes" in call(run, "gc", "--newest", "1")
    assert (run / "releases" / "2").is_dir()
    assert f"{total:,} bytes" in call(run, "gc", "--newest", "1", "--remove")
    assert sorted(path.name for path in (run / "releases").glob("[0-9]")) == ["1", "4"]


def test_verify_and_refusals(run: Path):
    assert call(run, "verify").count("whole") == 4
    (run / "releases" / "3" / "ranking" / "3" / "saved_model.pb").write_bytes(b"")
    assert "damaged: " in call(run, "verify", "3", code=1)
    assert call(run, "verify", "2", "4").count("whole") == 2
    assert "9: no manifest.json" in call(run, "promote", "9", code=13)
    with pytest.raises(StageError, match="no release here"):
        call(run / "elsewhere", "verify")


def test_a_server_that_is_silent_is_no_wrong_command_line(run: Path):
    told = call(run, "promote", "1", "--server", "127.0.0.1:9", "--timeout", "0.1", code=13)
    assert "127.0.0.1:9 does not answer as stable with release 1" in told
