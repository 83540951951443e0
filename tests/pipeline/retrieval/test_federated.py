"""Federated averaging against loops and against central training; what a device lets out."""

import dataclasses

import keras
import numpy as np
import pytest

from data.histories import Histories
from data.schema import Schema
from pipeline.retrieval.federated import Server, Update, mean_change
from towers.config import TowerConfig
from towers.two_tower import TwoTower

ITEMS, WIDTH, LENGTH, RATE = 9, 4, 3, 0.5


def events(users=5, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 7, users)
    who = np.repeat(np.arange(1, users + 1), counts)
    when = np.concatenate([np.arange(count) for count in counts])
    return Histories.from_events(who, rng.integers(1, ITEMS + 1, len(who)), when, user_rows=users + 1)


@pytest.fixture(scope="module")
def training():
    from pipeline.retrieval.federated_client import UserTraining

    keras.utils.set_random_seed(3)  # layers without a seed of their own begin where this says, whatever ran before
    schema = Schema(user_rows=6, item_rows=ITEMS + 1)
    config = TowerConfig(width=WIDTH, history_length=LENGTH, user_id=False, dropout=0.0, seed=3)
    items = np.random.default_rng(1).normal(size=(ITEMS + 1, WIDTH)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[0] = 0
    return UserTraining(TwoTower(schema, config), items, rate=RATE, batch=64)


@pytest.fixture(scope="module")
def start(training):
    return training.start


def clients(training, histories, **options):
    from pipeline.retrieval.federated_client import clients_of

    return clients_of(histories, training, history_length=LENGTH, **{"epochs": 1, **options})


def test_mean_of_changes_equals_a_loop():
    rng = np.random.default_rng(0)
    updates = [Update([rng.normal(size=(2, 3)), rng.normal(size=4)], int(count)) for count in (3, 1, 0, 6)]
    for place, part in enumerate(mean_change(updates)):
        expected = np.zeros_like(part)
        for index in np.ndindex(part.shape):
            expected[index] = sum(update.events * update.change[place][index] for update in updates) / 10
        np.testing.assert_allclose(part, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="updates: at least one must rest on events, received 1"):
        mean_change([Update([np.ones(1)], 0)])


def test_one_client_with_all_data_and_one_step_is_a_central_step(training, start):
    import tensorflow as tf

    from pipeline.retrieval.federated_client import Client

    histories = events()
    positions = np.arange(len(histories.items))
    history = histories.before(positions, LENGTH)
    server = Server(start)
    server.round([Client(training, histories.items, history)])
    training.install(start)
    with tf.GradientTape() as tape:
        loss = training.loss(tf.constant(histories.items), tf.constant(history), tf.ones(len(positions)))
    values = [variable.value for variable in training.variables]
    gradients = tape.gradient(loss, values, unconnected_gradients="zero")
    moved = 0.0
    for before, after, gradient in zip(start, server.weights, gradients, strict=True):
        np.testing.assert_allclose(after, before - RATE * np.array(tf.convert_to_tensor(gradient)), rtol=1e-5, atol=1e-6)
        moved = max(moved, float(np.abs(after - before).max()))
    assert moved > 1e-3
    # One step on each device, weighed by events, is that same step: the mean of means is the mean.
    many = Server(start)
    many.round(clients(training, histories))
    for one, other in zip(server.weights, many.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_order_of_clients_changes_nothing_and_rounds_learn(training, start):
    group = clients(training, events(), epochs=3)
    results = []
    for order in (range(len(group)), reversed(range(len(group)))):
        server = Server(start, momentum=0.5)
        chosen = [group[number] for number in order]
        for _ in range(3):
            server.round(chosen)
        results.append(server.weights)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    histories = events()
    number = len(histories.items)
    whole = histories.items, histories.before(np.arange(number), LENGTH), np.ones(number, np.float32)

    def loss(weights):
        import tensorflow as tf

        training.install(weights)
        return float(training.loss(*map(tf.constant, whole)))

    assert loss(results[0]) < loss(start) - 0.05


def test_an_update_is_weights_and_a_count_and_depends_on_the_clients_own_events_alone(training, start):
    histories, others = events(seed=0), events(seed=1)
    first = slice(histories.offsets[1], histories.offsets[2])
    alone = Histories.from_events(
        np.ones(first.stop - first.start, int), histories.items[first], histories.timestamps[first], user_rows=2
    )
    update, again = clients(training, histories)[0](start), clients(training, alone)[0](start)
    assert {field.name for field in dataclasses.fields(update)} == {"change", "events"}
    assert [part.shape for part in update.change] == [part.shape for part in start]
    assert update.events == first.stop - first.start
    assert update.bytes == 8 + 4 * sum(part.size for part in start)
    for one, other in zip(update.change, again.change, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    different = clients(training, others)[0](start)
    assert max(np.abs(a - b).max() for a, b in zip(update.change, different.change, strict=True)) > 1e-4


def test_a_tower_that_reads_more_than_histories_is_refused():
    from pipeline.retrieval.federated_client import UserTraining

    schema = Schema(user_rows=6, item_rows=ITEMS + 1, profile={"age": 3})
    two_tower = TwoTower(schema, TowerConfig(width=WIDTH, history_length=LENGTH, dropout=0.1))
    with pytest.raises(ValueError, match=r"received user_id True, profile \('age',\), dropout 0.1"):
        UserTraining(two_tower, np.zeros((ITEMS + 1, WIDTH)), rate=0.1, batch=4)
