"""Killed -9 in the middle of an epoch: training goes on from the last state saved and ends with the same bytes."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import RetrievalConfig
from tests.pipeline.training_world import make_world

SETTINGS = {"width": 8, "history_length": 4, "batch_size": 16, "epochs": 3, "learning_rate": 0.01, "checkpoint_steps": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, *make_world(folder)[1:]


def train(world, folder, settings, checkpoints):
    folder.mkdir()
    _, dataset, store = world
    config = RetrievalConfig(**settings)
    train_retrieval(dataset, store, folder, checkpoints, config, modalities=("text",), progress=lambda *_: None)
    return folder


def killed_after(line, world, out, checkpoints, settings):
    """Start a training of its own process and kill it once it says `line`."""
    arguments = [str(world[0]), str(out), str(checkpoints), json.dumps(settings), ""]
    command = [sys.executable, "-m", "tests.pipeline.train_in_process", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = []
        for text in process.stdout:
            said.append(text.strip())
            if said[-1] == line:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL, said
    return said


@pytest.mark.parametrize("extra", [{}, {"average_decay": 0.9, "accumulation": 3}], ids=["plain", "average"])
def test_a_training_killed_in_mid_epoch_ends_with_the_same_bytes(world, tmp_path, extra):
    settings = SETTINGS | extra
    whole = train(world, tmp_path / "whole", settings, tmp_path / "checkpoints")
    said = killed_after("saved 1 8", world, tmp_path / "killed", tmp_path / "kept", settings)
    # Saved inside the first epoch, at its end, and inside the second, where the data position is step 8.
    assert said[:2] == ["saved 0 4", "saved 0 8"] and said[-2:] == ["saved 1 4", "saved 1 8"] and "saved 1 0" in said
    (kept,) = (tmp_path / "kept").iterdir()
    state = json.loads((kept / "state.json").read_text())
    assert (state["epoch"], state["step"], len(state["log"])) == (1, 8, 1)
    resumed = train(world, tmp_path / "resumed", settings, tmp_path / "kept")
    one, other = (np.load(folder / "item_embeddings.npy") for folder in (whole, resumed))
    np.testing.assert_array_equal(one, other)
    logs = [json.loads((folder / "history.json").read_text()) for folder in (whole, resumed)]
    # The running loss goes on too: the interrupted epoch's figure is that of all its steps.
    for key in ("epoch", "loss", "valid_ndcg@20"):
        assert [row[key] for row in logs[0]] == [row[key] for row in logs[1]]
    assert len(logs[0]) == 3
