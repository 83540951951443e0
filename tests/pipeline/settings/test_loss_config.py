"""Losses and updates by rows chosen in the settings, through the whole training."""

import json

import numpy as np
import pytest

from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import RetrievalConfig
from tests.pipeline.training_world import make_world

SETTINGS = {"width": 8, "history_length": 4, "batch_size": 64, "epochs": 2, "learning_rate": 0.01}
CHOICES = {
    "mixed": {
        "loss": {
            "negatives": "mixed",
            "uniform_negatives": 16,
            "exclude_positives": True,
            "log_q": "streaming",
            "event_weights": {"interaction": 2.0},
        },
    },
    "memory": {"loss": {"memory": 200, "label_smoothing": 0.1, "hardest": 8}, "sparse_updates": True},
    "elsa": {"loss": {"kind": "elsa"}, "sparse_updates": False},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("name", CHOICES)
def test_training_by_settings(world, tmp_path, name):
    _, dataset, store = world
    out = tmp_path / "out"
    out.mkdir()
    config = RetrievalConfig(**SETTINGS, **CHOICES[name])
    told = train_retrieval(
        dataset, store, out, tmp_path / "checkpoints", config, modalities=("text",), progress=lambda *_: None
    )
    log = json.loads((out / "history.json").read_text())
    assert len(log) == told["epochs"] == 2 and np.isfinite([row["loss"] for row in log]).all()
    assert log[1]["loss"] < log[0]["loss"]
    assert np.isfinite(np.load(out / "item_embeddings.npy")).all()


def test_rows_and_averages_over_batches_exclude_each_other():
    assert RetrievalConfig().sparse_updates_now == "auto"
    assert RetrievalConfig(accumulation=2).sparse_updates_now is False
    with pytest.raises(ValueError, match="accumulation"):
        _ = RetrievalConfig(accumulation=2, sparse_updates=True).sparse_updates_now


def test_unknown_kinds_of_events_are_refused():
    with pytest.raises(ValueError, match="event_weights"):
        RetrievalConfig(loss={"event_weights": {"glance": 1.0}})
