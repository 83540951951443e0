"""The same towers on JAX: the same losses from the same weights and batches, and weights that TensorFlow can export."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pipeline.retrieval import train_retrieval as module
from pipeline.retrieval.train_retrieval import build_task, train_retrieval
from pipeline.settings.config import RetrievalConfig
from tests.pipeline.training_world import make_world
from towers.two_tower import load_two_tower

pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")

# At the default rate: a larger one makes Adam's first steps, of +-rate whatever the gradient, tell rounding errors apart.
NO_DROPOUT = {"dropout": 0.0, "id_dropout": 0.0, "modality_dropout": 0.0, "user_id_dropout": 0.0}
SETTINGS = {"width": 8, "history_length": 4, "batch_size": 64, "epochs": 2, **NO_DROPOUT}


def train_on_jax(folder, settings, weights=""):
    """Train in a process of its own; returns what it wrote and its last words."""
    out = folder / "jax"
    arguments = [str(folder), str(out), str(folder / "checkpoints"), json.dumps(settings), str(weights)]
    command = [sys.executable, "-m", "tests.pipeline.train_in_process", *arguments]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out, finished.stdout.splitlines()[-1]


def test_jax_trains_the_same_towers_and_tensorflow_exports_them(tmp_path, monkeypatch):
    _, dataset, store = make_world(tmp_path)
    start, make = tmp_path / "start.weights.h5", module.new_towers

    def saved(*arguments):
        two_tower = make(*arguments)
        two_tower.save_weights(start)
        return two_tower

    monkeypatch.setattr(module, "new_towers", saved)
    here = tmp_path / "tensorflow"
    here.mkdir()
    config = RetrievalConfig(**SETTINGS)
    train_retrieval(
        dataset, store, here, tmp_path / "own", config, modalities=("text",), progress=lambda *_: None
    )
    there, words = train_on_jax(tmp_path, SETTINGS, start)
    assert words == "tensorflow False"
    logs = [json.loads((folder / "history.json").read_text()) for folder in (here, there)]
    losses = [[row["loss"] for row in log] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and losses[0][1] < losses[0][0]
    # What JAX trained, computed by TensorFlow: the form in which it is served.
    exported = build_task(dataset, store, load_two_tower(there)).all_item_embeddings()
    np.testing.assert_allclose(exported, np.load(there / "item_embeddings.npy"), atol=1e-4)
    np.testing.assert_allclose(exported, np.load(here / "item_embeddings.npy"), atol=1e-3)
