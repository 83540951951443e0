"""Towers trained on whole histories: their losses against loops, and a world of two blocks that they must find."""

import keras
import numpy as np
import pytest

from data.histories import Histories
from data.history_batches import HistoryBatches
from data.schema import Schema
from towers.config import TowerConfig
from towers.history_task import HistoryTask, elsa_loss, history_softmax_loss
from towers.two_tower import TwoTower


def test_the_elsa_loss_is_the_distance_of_two_unit_vectors():
    rng = np.random.default_rng(0)
    scores, taken = rng.normal(size=(4, 6)), (rng.random((4, 6)) < 0.5).astype(float)
    taken[:, 0] = 1.0
    found = keras.ops.convert_to_numpy(elsa_loss(scores.astype("float32"), taken.astype("float32")))
    for line in range(4):
        first, second = scores[line] / np.linalg.norm(scores[line]), taken[line] / np.linalg.norm(taken[line])
        assert found[line] == pytest.approx(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)), abs=1e-5)


def test_the_history_softmax_leaves_a_users_other_items_out_of_the_denominator():
    rng = np.random.default_rng(1)
    logits, taken = rng.normal(size=(3, 5)), np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], float)
    found = keras.ops.convert_to_numpy(history_softmax_loss(logits.astype("float32"), taken.astype("float32")))
    for line in range(3):
        chosen, others = np.flatnonzero(taken[line]), np.flatnonzero(taken[line] == 0)
        rest = sum(np.exp(logits[line, other]) for other in others)
        terms = [-np.log(np.exp(logits[line, item]) / (np.exp(logits[line, item]) + rest)) for item in chosen]
        assert found[line] == pytest.approx(np.mean(terms) if terms else 0.0, abs=1e-5)
    # A positive that rises does not push the user's other positive down.
    raised = logits.copy()
    raised[0, 0] += 5.0
    again = keras.ops.convert_to_numpy(history_softmax_loss(raised.astype("float32"), taken.astype("float32")))
    second = -np.log(np.exp(logits[0, 1]) / (np.exp(logits[0, 1]) + np.exp(logits[0, 2:]).sum()))
    first = -np.log(np.exp(raised[0, 0]) / (np.exp(raised[0, 0]) + np.exp(logits[0, 2:]).sum()))
    assert again[0] == pytest.approx((first + second) / 2, abs=1e-5)


def two_blocks(users: int = 120) -> Histories:
    """Items 1 to 6 are chosen together, and 7 to 12."""
    rng = np.random.default_rng(2)
    rows, items = [], []
    for user in range(1, users + 1):
        first = 1 if user % 2 else 7
        for item in rng.choice(np.arange(first, first + 6), 3, replace=False):
            rows.append(user)
            items.append(item)
    return Histories.from_events(np.array(rows), np.array(items), np.zeros(len(rows), int), user_rows=users + 1)


@pytest.mark.parametrize("loss", ["elsa", "softmax"])
def test_items_of_a_block_end_up_together_and_an_item_does_not_vote_for_itself(loss):
    histories, schema = two_blocks(), Schema(user_rows=121, item_rows=14, modalities={})
    config = TowerConfig(
        width=8, history="sum", user_id=False, id_dropout=0.0, fusion="weighted", fusion_weights=(1.0,),
        item_hidden=False, temperature=0.2,
    )  # fmt: skip
    counts = np.bincount(histories.items, minlength=14)
    rows = np.flatnonzero(counts)
    task = HistoryTask(
        TwoTower(schema, config), loss=loss, rows=rows, dropout=0.3, seed=3,
        features={}, present=np.zeros((14, 0), bool), profile=np.zeros((121, 0), np.int32), counts=counts,
    )  # fmt: skip
    task.compile(optimizer=keras.optimizers.Adam(0.02))
    batches = HistoryBatches(histories, rows, item_rows=14, users_per_batch=30, seed=0)
    for epoch in range(50):
        for batch in batches.epoch(epoch):
            task.train_on_batch(batch)
    items = task.all_item_embeddings()
    assert not items[0].any() and not items[13].any()
    cosines = items[1:13] @ items[1:13].T
    within, across = cosines[:6, :6][~np.eye(6, dtype=bool)], cosines[:6, 6:]
    assert within.mean() > across.mean() + 0.2
    # Whoever chose one item of a block is offered the rest of it first.
    np.fill_diagonal(cosines, -1.0)
    blocks = np.argsort(-cosines, axis=1)[:, :5] // 6
    assert (blocks == np.arange(12)[:, None] // 6).mean() > 0.9
    batch = next(batches.epoch(0))
    outputs = task(batch, training=False)
    own = keras.ops.convert_to_numpy(outputs["scores"])[0]
    line = batch["taken"][0].astype(np.float32)
    expected = (line @ items[rows]) @ items[rows].T - line
    np.testing.assert_allclose(own, expected, atol=1e-4)


def test_a_user_of_weight_zero_teaches_nothing():
    histories = two_blocks(6)
    batch = next(HistoryBatches(histories, np.arange(1, 13), item_rows=14, users_per_batch=8, seed=0).epoch(0))
    assert batch["weight"].tolist() == [1.0] * 6 + [0.0] * 2
    schema = Schema(user_rows=7, item_rows=14, modalities={})
    config = TowerConfig(width=4, history="sum", user_id=False, id_dropout=0.0, fusion="weighted", item_hidden=False)
    task = HistoryTask(
        TwoTower(schema, config), loss="elsa", rows=np.arange(1, 13), dropout=0.0, seed=3,
        features={}, present=np.zeros((14, 0), bool), profile=np.zeros((7, 0), np.int32), counts=np.ones(14),
    )  # fmt: skip
    before = float(task.compute_loss(x=batch, y_pred=task(batch)))
    changed = {**batch, "taken": batch["taken"].copy()}
    changed["taken"][6:] = 1
    assert float(task.compute_loss(x=changed, y_pred=task(changed))) == pytest.approx(before, abs=1e-6)


def test_batches_of_an_epoch_go_on_from_any_step():
    batches = HistoryBatches(two_blocks(), np.arange(1, 13), item_rows=14, users_per_batch=50, seed=5)
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, start=1))
    assert len(whole) == len(batches) == 3 and len(rest) == 2
    for first, second in zip(whole[1:], rest, strict=True):
        np.testing.assert_array_equal(first["taken"], second["taken"])
    assert sum(int(batch["weight"].sum()) for batch in whole) == 120


def test_histories_of_single_items_cannot_teach():
    lonely = Histories.from_events(np.array([1, 2]), np.array([3, 4]), np.zeros(2, int), user_rows=3)
    with pytest.raises(ValueError, match="2 different items"):
        HistoryBatches(lonely, np.array([3, 4]), item_rows=5, users_per_batch=2, seed=0)
