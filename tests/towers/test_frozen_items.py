"""Steps of users' own vectors: the loss of the whole task, and nobody else moves."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from data.batches import RetrievalBatches
from data.histories import Histories
from data.schema import Schema
from towers.config import TowerConfig
from towers.frozen_items import FrozenItemsTask
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

USERS, ITEMS = 9, 15


def test_the_loss_is_that_of_the_task_and_a_step_moves_users_alone():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, USERS), 6)
    events = (users, rng.integers(1, ITEMS, len(users)), np.arange(len(users)))
    histories = Histories.from_events(*events, user_rows=USERS)
    settings = {"item_rows": ITEMS, "batch_size": 16, "history_length": 4, "ordered": True, "seed": 0}
    batch = next(RetrievalBatches(histories, **settings).epoch(0))
    two_tower = TwoTower(Schema(user_rows=USERS, item_rows=ITEMS), TowerConfig(width=6, history_length=4))
    tables = {"profile": np.zeros((USERS, 0), np.int32), "counts": np.bincount(events[1], minlength=ITEMS)}
    whole = RetrievalTask(two_tower, features={}, present=np.zeros((ITEMS, 0), bool), **tables)
    items = whole.all_item_embeddings()
    frozen = FrozenItemsTask(two_tower.user_tower, items=items, scale=float(two_tower.scale), **tables)
    losses = [
        float(task.compute_loss(x=batch, y_pred=task(batch, training=False), training=False)) for task in (whole, frozen)
    ]
    assert np.isclose(*losses, rtol=1e-5) and losses[0] > 0
    table = two_tower.user_tower.id_embedding.embeddings
    assert [id(one) for one in frozen.trainable_variables] == [id(table)]
    before = [np.array(weight) for weight in two_tower.user_tower.weights]
    frozen.compile(optimizer=keras.optimizers.Adam(0.05), jit_compile=False)
    for _ in range(20):
        frozen.train_on_batch(batch)
    after = float(frozen.compute_loss(x=batch, y_pred=frozen(batch, training=False), training=False))
    assert after < losses[1] and np.array_equal(whole.all_item_embeddings(), items)
    moved = [np.abs(np.array(weight) - old) for weight, old in zip(two_tower.user_tower.weights, before, strict=True)]
    rows = next(change for change, weight in zip(moved, two_tower.user_tower.weights, strict=True) if weight is table)
    assert sum(float(change.max()) > 0 for change in moved) == 1
    asked = np.isin(np.arange(USERS), batch["user"])
    assert (rows.max(axis=1)[asked] > 0).all() and not rows[~asked].any(), "strangers, row 0, stay where they are"


def test_without_a_table_of_users_there_is_nothing_to_train():
    schema = Schema(user_rows=USERS, item_rows=ITEMS)
    tower = TwoTower(schema, TowerConfig(width=6, history_length=4, user_id=False)).user_tower
    tables = {"profile": np.zeros((USERS, 0), np.int32), "counts": np.ones(ITEMS)}
    with pytest.raises(ValueError, match="table of users"):
        FrozenItemsTask(tower, items=np.zeros((ITEMS, 6), np.float32), scale=1.0, **tables)
