"""What a run folder says of a stage that is not there: a command that exists, and that makes it."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.__main__ import app
from pipeline.settings.config import Config, load_config
from pipeline.stage import WALK, StageError
from pipeline.stages.run_folder import RunFolder
from pipeline.stages.walk import Run


def command_named(folder, stage):
    with pytest.raises(StageError, match="is not there yet") as error:
        RunFolder(folder, folder, Config()).key(stage)
    return re.search(r"run `python -m pipeline ([\w/-]+)` first", str(error.value))[1]


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("ingest", "ingest"),
        ("encode_tuned", "finetune"),
        ("retrieval/full", "train-retrieval"),
        ("retrieval/without_text", "train-retrieval"),
        ("linear/ids_only", "train-linear"),
        ("served/without_image", "train-linear"),
        ("judge", "job"),
    ],
)
def test_a_stage_or_variant_that_is_missing_names_the_command_that_makes_it(tmp_path, stage, command):
    assert command_named(tmp_path, stage) == command


@pytest.mark.parametrize("item_id", [True, False])
def test_where_items_have_no_ids_there_is_no_model_of_ids_alone(monkeypatch, item_id):
    monkeypatch.setattr(Run, "store", lambda run: SimpleNamespace(modalities=("text",)))
    run = Run(Path("source"), Path("run"), load_config(overrides=[f"retrieval.item_id={str(item_id).lower()}"]))
    assert ("ids_only" in run._variants()) == item_id


def test_every_stage_names_a_command_that_there_is(tmp_path):
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {command_named(tmp_path, stage) for stage in WALK} <= commands
