"""Half precision in the towers' layers: training learns as much, and what is written computes in float32."""

import json

import keras
import numpy as np
import pytest

from pipeline.retrieval import train_retrieval as module
from pipeline.retrieval.train_retrieval import build_task, train_retrieval
from pipeline.settings.config import RetrievalConfig
from pipeline.training.optimizer import computing_in
from tests.pipeline.training_world import make_world
from towers.two_tower import load_two_tower

SETTINGS = {"width": 8, "history_length": 4, "batch_size": 64, "epochs": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def train(world, folder, monkeypatch, **settings):
    """Train; returns the folder, the log and the types that the towers and the loss worked in."""
    _, dataset, store = world
    folder.mkdir()
    kinds, make = {}, module.RetrievalTask

    class Watched(make):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            kinds.update({name: keras.backend.standardize_dtype(value.dtype) for name, value in y_pred.items()})
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            kinds["loss"] = keras.backend.standardize_dtype(loss.dtype)
            kinds["layers"] = self.two_tower.item_tower.hidden.compute_dtype
            kinds["weights"] = {variable.dtype for variable in self.trainable_variables}
            return loss

    monkeypatch.setattr(module, "RetrievalTask", Watched)
    config = RetrievalConfig(**SETTINGS, **settings)
    train_retrieval(
        dataset, store, folder, folder / "kept", config, modalities=("text",), progress=lambda *_: None
    )
    monkeypatch.undo()
    return folder, json.loads((folder / "history.json").read_text()), kinds


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_as_much_and_is_exported_in_full(world, tmp_path, monkeypatch, precision):
    _, dataset, store = world
    _, exact, _ = train(world, tmp_path / "float32", monkeypatch)
    folder, log, kinds = train(world, tmp_path / precision, monkeypatch, precision=precision)
    assert kinds.pop("layers") == precision and kinds.pop("weights") == {"float32"}
    # Layers compute in half precision; unit vectors and the loss do not.
    assert set(kinds.values()) == {"float32"}, kinds
    fall = [run[0]["loss"] - run[-1]["loss"] for run in (exact, log)]
    assert fall[1] == pytest.approx(fall[0], rel=0.1) and fall[0] > 0.3
    task = build_task(dataset, store, load_two_tower(folder))
    assert task.two_tower.item_tower.hidden.compute_dtype == "float32"
    embeddings = np.load(folder / "item_embeddings.npy")
    np.testing.assert_allclose(task.all_item_embeddings(), embeddings, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings[1:], axis=1), 1.0, atol=1e-5)


def test_the_precision_ends_with_the_layers_made_in_it():
    with pytest.raises(KeyError), computing_in("float16"):
        assert keras.layers.Dense(2).compute_dtype == "float16"
        raise KeyError
    assert keras.layers.Dense(2).compute_dtype == "float32"
