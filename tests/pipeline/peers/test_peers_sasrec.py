"""SASRec's batches and model: every event once, nothing from another user or from later, and asked as it was trained."""

import keras
import numpy as np
import pytest

from data.histories import Histories
from pipeline.peers.sasrec import SequenceBatches, SequenceModel

LENGTH = 4
array = keras.ops.convert_to_numpy


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Users of 0, 1, 2 and up to 13 events; user u's items are 100 u and those after it, in the order of time."""
    sizes = [0, 0, 1, 2, 13, 4, 7]
    users = np.repeat(np.arange(len(sizes)), sizes)
    items = np.concatenate([100 * user + np.arange(size) for user, size in enumerate(sizes)]).astype(np.int32)
    return Histories.from_events(users, items, items.astype(np.int64), user_rows=len(sizes))


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    model = SequenceModel(12, width=8, length=LENGTH, layers=2, dropout=0.5, temperature=0.0, seed=3)
    rng = np.random.default_rng(5)
    for weight in model.trainable_variables:  # fresh blocks are the identity
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


@pytest.mark.parametrize("ordered", [True, False])
def test_every_event_but_a_users_first_is_learned_once_an_epoch_from_the_same_users(histories, ordered):
    batches = SequenceBatches(histories, length=LENGTH, batch_size=9, ordered=ordered, seed=1)
    for epoch in range(2):
        parts = list(batches.epoch(epoch))
        assert len(parts) == len(batches) and parts[0]["before"].shape == (2, LENGTH)
        before, place, target, weight = (
            np.concatenate([part[name] for part in parts]) for name in ("before", "place", "target", "weight")
        )
        learned = target[weight > 0]
        assert (
            len(set(learned.tolist())) == len(learned) == len(histories.items) - 5
        )  # users with events: one first each
        np.testing.assert_array_equal(before[weight > 0] // 100, learned // 100)
        if ordered:
            np.testing.assert_array_equal(before[weight > 0] + 1, learned)
        for row in range(len(before)):  # as many of the same user stand before an event as its place says, and no more
            for step in np.flatnonzero(weight[row]):
                first, owner = step - place[row, step], before[row, step] // 100
                assert (before[row, first : step + 1] // 100 == owner).all()
                assert first == 0 or before[row, first - 1] // 100 != owner
    again = list(batches.epoch(1, start=1))
    np.testing.assert_array_equal(again[0]["target"], parts[1]["target"])
    other = list(batches.epoch(0))
    assert any((one["target"] != two["target"]).any() for one, two in zip(parts, other, strict=True))


def test_a_place_sees_its_own_user_before_it_and_nothing_else(model):
    before = np.array([[3, 5, 7, 9]], np.int32)
    place = np.array([[0, 1, 0, 1]], np.int32)  # two users of two events each
    plain = array(model({"before": before, "place": place}))
    for changed, same, other in (
        ([4, 5, 7, 9], [2, 3], [0, 1]),
        ([3, 5, 7, 2], [0, 1, 2], [3]),
        ([3, 5, 2, 9], [0, 1], [2, 3]),
    ):
        told = array(model({"before": np.array([changed], np.int32), "place": place}))
        np.testing.assert_allclose(told[0, same], plain[0, same], atol=1e-5)
        assert np.abs(told[0, other] - plain[0, other]).max(axis=-1).min() > 1e-3


def test_a_history_is_asked_for_as_its_sequence_was_trained(model):
    """Most recent first with padding behind, and longer than the model reads: the last place of the same sequence."""
    rows = np.array([[3, 5, 7, 9]], np.int32)
    trained = array(model({"before": rows, "place": np.arange(LENGTH, dtype=np.int32)[None]}))
    history = np.array([[9, 7, 5, 3, 1, 2], [7, 5, 3, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.int32)
    queries = model.queries(history)
    np.testing.assert_allclose(queries[:3], trained[0, [3, 2, 0]], atol=1e-5)
    assert not queries[3].any()
    assert model.queries(history[:, :2]).shape == (4, 8)


@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_the_loss_is_the_softmax_over_the_catalogue(model, temperature):
    other = SequenceModel(12, width=8, length=LENGTH, layers=1, dropout=0.0, temperature=temperature, seed=4)
    batch = {
        "before": np.array([[3, 5, 7, 9]], np.int32),
        "place": np.array([[0, 1, 2, 0]], np.int32),
        "target": np.array([[5, 7, 2, 11]], np.int32),
        "weight": np.array([[1, 1, 0, 1]], np.float32),
    }
    queries, items = array(other(batch))[0], other.candidates()
    logits = queries @ items[1:].T / (temperature or 1.0)  # row 0 is no item
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), batch["target"][0] - 1]
    assert float(other.compute_loss(batch, y_pred=other(batch))) == pytest.approx(losses[[0, 1, 3]].mean(), rel=1e-4)
