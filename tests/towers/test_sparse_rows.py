"""Training by rows: equal to dense training where every row is touched, and blind to all other rows."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from data.batches import RetrievalBatches
from data.histories import Histories
from data.schema import Schema
from towers.config import TowerConfig
from towers.sparse_rows import LARGE_TABLE
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

USERS, ITEMS = 7, 9
QUIET = {"id_dropout": 0.0, "modality_dropout": 0.0, "user_id_dropout": 0.0, "dropout": 0.0}
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.01, global_clipnorm=0.5),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
}


def make_task(batches, sparse, optimizer, users=USERS, items=ITEMS):
    keras.utils.set_random_seed(3)
    two_tower = TwoTower(Schema(user_rows=users, item_rows=items), TowerConfig(width=4, history_length=2, **QUIET))
    task = RetrievalTask(
        two_tower,
        features={},
        present=np.zeros((items, 0), bool),
        profile=np.zeros((users, 0), "int32"),
        counts=np.ones(items),
        batch_size=batches.batch_size,
        item_capacity=batches.capacity,
        sparse_updates=sparse,
    )
    task.compile(optimizer=OPTIMIZERS[optimizer]())
    return task


def make_batches(users, items, batch_size, user_rows, item_rows):
    # On JAX a step is compiled for every length of a batch, so all get one.
    static = keras.backend.backend() == "jax"
    histories = Histories.from_events(users, items, np.arange(len(users)), user_rows=user_rows)
    return RetrievalBatches(
        histories, item_rows=item_rows, batch_size=batch_size, history_length=2, ordered=True, seed=0, static=static
    )


def train(task, batches, epochs):
    for epoch in range(epochs):
        task.fit(((batch,) for batch in batches.epoch(epoch)), steps_per_epoch=len(batches), epochs=1, verbose=0)


def tables(task):
    towers = task.two_tower.user_tower, task.two_tower.item_tower
    return [np.array(ops.convert_to_numpy(tower.id_embedding.embeddings.value)) for tower in towers]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equals_dense_training_where_every_row_is_touched(optimizer):
    grid = np.array([(user, item) for user in range(1, USERS) for item in range(1, ITEMS)])
    batches = make_batches(*grid.T, len(grid), USERS, ITEMS)
    dense, sparse = (make_task(batches, flag, optimizer) for flag in (False, True))
    start = tables(dense)
    for task in (dense, sparse):
        train(task, batches, 4)
    assert set(sparse.sparse_rows) == {"user", "items"} and not dense.sparse_rows
    for before, one, other in zip(start, tables(dense), tables(sparse), strict=True):
        assert np.abs(one - before).max() > 0.01
        np.testing.assert_allclose(other, one, atol=2e-6)
    for one, other in zip(dense.two_tower.variables, sparse.two_tower.variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(other.value), ops.convert_to_numpy(one.value), atol=2e-6, err_msg=one.path
        )


def test_rows_that_no_batch_names_stay_as_they_are_and_others_remember():
    """Two batches of different users: a row's momentum waits for it, whatever happens in between."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 50, 200), rng.integers(1, 60, 200)
    batches = make_batches(users, items, 64, 100, 300)
    assert batches.capacity < 300  # batches name items, and are not the table
    task = make_task(batches, True, "adamw", users=100, items=300)
    before = tables(task)
    train(task, batches, 2)
    after = tables(task)
    named = np.setdiff1d(np.arange(100), np.append(users, 0)), np.setdiff1d(np.arange(300), np.append(items, 0))
    for rows, old, new in zip(named, before, after, strict=True):
        np.testing.assert_array_equal(new[rows], old[rows])
        moved = np.setdiff1d(np.arange(1, len(old)), rows)
        assert (np.abs(new[moved] - old[moved]).max(axis=1) > 1e-4).all()
    for part in task.sparse_rows.values():
        assert len(part._slots) == 2  # Adam's two moments
        moments = np.array(ops.convert_to_numpy(part._slots[0][1].value))
        assert (moments[np.setdiff1d(np.arange(len(moments)), [0, *users, *items])] == 0).all()
        assert np.abs(moments).max() > 0


def test_a_checkpoint_and_the_best_weights_hold_the_tables():
    from pipeline.training.checkpoint import training_variables

    batches = make_batches(np.arange(1, 20) % 6 + 1, np.arange(1, 20) % 8 + 1, 8, USERS, ITEMS)
    task = make_task(batches, True, "adamw")
    paths = {variable.path for variable in training_variables(task, constant=task.tables.values())}
    learned = {id(variable) for variable in task.learned_variables}
    for part in task.sparse_rows.values():
        assert part.table.path in paths and id(part.table) in learned and id(part.active) not in learned
        assert {table.path for _, table in part._slots} <= paths
    dense = make_task(batches, False, "adamw")
    assert len(task.learned_variables) == len(dense.learned_variables) == len(dense.trainable_variables)


def test_auto_leaves_small_tables_alone_and_takes_large_ones():
    batches = make_batches(np.arange(1, 20) % 6 + 1, np.arange(1, 20) % 8 + 1, 8, USERS, ITEMS)
    assert not make_task(batches, "auto", "adamw").sparse_rows
    assert set(make_task(batches, "auto", "adamw", users=LARGE_TABLE).sparse_rows) == {"user"}
    with pytest.raises(ValueError, match="batch_size"):
        RetrievalTask(
            TwoTower(Schema(user_rows=3, item_rows=3), TowerConfig(width=2)), features={}, present=np.zeros((3, 0), bool),
            profile=np.zeros((3, 0), "int32"), counts=np.ones(3), sparse_updates=True,
        )  # fmt: skip


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="runs on JAX already")
def test_the_same_on_jax():
    pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "equals_dense and adamw or stay_as_they_are", __file__]
    finished = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True)
    assert finished.returncode == 0 and "2 passed" in finished.stdout, finished.stdout[-3000:]
