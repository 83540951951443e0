"""Several devices train as one does on the joined batch: two of TensorFlow's in one process or two, two of JAX's."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from pipeline.retrieval.train_retrieval import new_towers, tower_config
from pipeline.settings.config import Config, RetrievalConfig
from pipeline.stage import StageError
from pipeline.stages.run_folder import RunFolder
from pipeline.training.accelerator_choice import accelerator_of
from pipeline.training.accelerator_tensorflow import TensorflowReplicas, make_accelerator
from pipeline.training.workers import workers_of
from tests.pipeline.train_on_replicas import CLIPPED, moves, train
from tests.pipeline.training_world import make_world

NO_DROPOUT = {"dropout": 0.0, "id_dropout": 0.0, "modality_dropout": 0.0, "user_id_dropout": 0.0}
LOSS = {"exclude_positives": True, "label_smoothing": 0.1}
SETTINGS = {"width": 8, "history_length": 4, "batch_size": 128, "epochs": 1, **NO_DROPOUT, "loss": LOSS}
CONFIG = RetrievalConfig(**SETTINGS)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    _, dataset, store = make_world(folder, items=21)
    schema = dataset.schema.with_modalities({"text": store.widths["text"]}, store.frames)
    new_towers(dataset, schema, tower_config(CONFIG, ("text",))).save_weights(folder / "start.weights.h5")
    return folder


@pytest.fixture(scope="module")
def single(world):
    """What one device makes of it: the step, the clipped step, and item embeddings after an epoch."""
    start = world / "start.weights.h5"
    steps = [moves(world, start, CONFIG, **clipping) for clipping in ({}, CLIPPED)]
    return *steps, train(world, start, world / "single", CONFIG)


def start(world, name, processors=1, epoch=True, clipped=False, **environment):
    """A process of its own that takes the same step."""
    words = [str(world), str(world / "start.weights.h5"), str(world / name), json.dumps(SETTINGS), str(processors)]
    command = [sys.executable, "-m", "tests.pipeline.train_on_replicas", *words, str(int(epoch)), str(int(clipped))]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(world, name, process):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()[-3000:]
    return np.load(world / name / "step.npz")


def same(step, expected, gradient=1e-5):
    names = [name for name in expected if name[0].isdigit()]
    assert names == [name for name in step if name[0].isdigit()] and len(names) > 10
    assert float(step["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-5)
    for name in names:
        np.testing.assert_allclose(step[name], expected[name], atol=gradient, err_msg=name)


def test_two_devices_of_jax_are_one(world, single):
    pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    step = ended(world, "jax", start(world, "jax", KERAS_BACKEND="jax", XLA_FLAGS=flags))
    assert step["replicas"] == 2
    same(step, single[0])
    np.testing.assert_allclose(np.load(world / "jax" / "item_embeddings.npy"), single[2], atol=1e-5)
    # 22 item rows lie half and half, their content too; 31 user rows do not divide, and their 8 columns do.
    assert sorted(step[name].tolist() for name in step if name[:4] == "part") == [[11, 5], [11, 8], [31, 4]]


def test_two_workers_are_one_device(world, single):
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]
    names = ["first", "second"]
    processes = [
        start(world, name, TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": n}}))
        for n, name in enumerate(names)
    ]
    for name, process in zip(names, processes, strict=True):
        step = ended(world, name, process)
        assert step["replicas"] == 2
        same(step, single[0])
        np.testing.assert_allclose(np.load(world / name / "item_embeddings.npy"), single[2], atol=1e-5)
    # Both read what the first keeps; the other writes none.
    assert [any((world / name / "kept").iterdir()) for name in names] == [True, False]


def test_workers_share_the_training_of_towers_alone(tmp_path, monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    assert workers_of({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})}).place == 2
    for words, wrong in (("[", "must be a JSON object"), (json.dumps({"cluster": cluster, "task": {"type": "ps"}}), "one of")):
        with pytest.raises(ValueError, match=f"TF_CONFIG.*{wrong}"):
            workers_of({"TF_CONFIG": words})
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    run, said = RunFolder(tmp_path, tmp_path, Config(), lambda line: said.append(line)), []
    with pytest.raises(StageError, match="index: one machine runs this stage; the 3 workers"):
        run.run("index", lambda out, kept: {}, {}, {})
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(ValueError, match=r'3 workers train on all GPUs.*received "tpu"'):
        make_accelerator("tpu")

    def work(out, kept):
        (out / "towers").write_text("made")
        return {"kept": kept.name}

    for job, index in (("worker", 0), ("chief", 0)):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}))
        done = run.run("retrieval/full", work, {}, {})
        assert (tmp_path / "retrieval" / "full" / "towers").is_file() == (job == "chief")
        assert done.manifest["counts"] == {"kept": f".checkpoints-retrieval-full-{done.key}"}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}}))
    assert run.run("retrieval/full", work, {}, {}).skipped


def test_the_sum_of_the_replicas_gradients_is_clipped(world, single):
    step = ended(world, "mirrored", start(world, "mirrored", processors=2, epoch=False, clipped=True))
    assert step["replicas"] == 2
    norm = np.sqrt(sum(np.sum(np.square(single[1][name])) for name in single[1] if name[0].isdigit()))
    assert norm == pytest.approx(CLIPPED["global_clipnorm"], rel=1e-4)
    same(step, single[1], gradient=1e-7)


def test_settings_that_replicas_cannot_keep_are_refused():
    accelerator = TensorflowReplicas.__new__(TensorflowReplicas)
    accelerator.kind, accelerator.replicas = "gpu", 3
    with pytest.raises(ValueError, match=r"3 devices cannot train with batch_size = 128, loss.memory = 256, side = \{'l2'"):
        accelerator.fitted(CONFIG.model_copy(update={"loss": CONFIG.loss.model_copy(update={"memory": 256}),
            "side": CONFIG.side.model_copy(update={"l2": 0.1})}))
    accelerator.replicas = 2
    assert accelerator.fitted(CONFIG).sparse_updates is False
    accelerator.kind = "tpu"
    with pytest.raises(ValueError, match="exclude_positives"):
        accelerator.fitted(CONFIG)


def test_one_device_changes_nothing():
    accelerator = accelerator_of(CONFIG)
    assert accelerator.replicas == 1 and not accelerator.static
    assert accelerator.fitted(CONFIG) == CONFIG
    automatic = CONFIG.model_copy(update={"precision": "auto"})
    assert accelerator.fitted(automatic).precision == "float32"


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r'retrieval.accelerator.*received "tpu"'):
        accelerator_of(CONFIG.model_copy(update={"accelerator": "tpu"}))
