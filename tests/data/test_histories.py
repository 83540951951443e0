"""Histories and batches: nothing from the present or the future, and the same batches in every process."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches import RetrievalBatches
from data.histories import Histories
from data.private_batches import PrivateBatches

events = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=40)


def build(log):
    users, items, times = (np.array(column) for column in zip(*log, strict=True))
    return Histories.from_events(users, items, times, user_rows=6), users, items, times


@given(events, st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_before_is_strictly_earlier_and_most_recent_first(log, length):
    histories, users, items, times = build(log)
    windows = histories.before(np.arange(len(log)), length)
    owners = histories.users
    for position in range(len(log)):
        user, moment = owners[position], histories.timestamps[position]
        earlier = [(t, k) for k, (u, t) in enumerate(zip(users, times, strict=True)) if u == user and t < moment]
        expected = [items[k] for _, k in sorted(earlier)][::-1][:length]
        assert windows[position].tolist() == expected + [0] * (length - len(expected))


@given(events, st.integers(1, 7), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_as_of_equals_the_loop(log, length, moment):
    histories, users, items, times = build(log)
    asked = np.arange(6)
    windows = histories.as_of(asked, np.full(6, moment), length)
    for user in asked:
        earlier = sorted((t, k) for k, (u, t) in enumerate(zip(users, times, strict=True)) if u == user and t < moment)
        expected = [items[k] for _, k in earlier][::-1][:length]
        assert windows[user].tolist() == expected + [0] * (length - len(expected))


@given(st.integers(1, 12), st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_others_never_holds_the_target_and_each_other_item_at_most_once(size, length):
    items = np.arange(1, size + 1)
    histories = Histories.from_events(np.ones(size, int), items, np.zeros(size), user_rows=2).shuffled(
        np.random.default_rng(size)
    )
    windows = histories.others(np.arange(size), length)
    for position, window in enumerate(windows):
        chosen = window[window > 0]
        assert histories.items[position] not in chosen
        assert len(set(chosen)) == len(chosen) == min(length, size - 1)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=1, max_size=30), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_others_leave_out_every_event_of_the_target_item(pairs, length):
    users, items = np.array(pairs).T
    histories = Histories.from_events(users, items, np.zeros(len(pairs)), user_rows=4)
    windows = histories.others(np.arange(len(pairs)), length)
    for position, user in enumerate(histories.users):
        start, end = histories.offsets[user : user + 2]
        own, place = histories.items[start:end].tolist(), position - start
        around = (own[place + 1 :] + own[:place])[:length]
        expected = [item for item in around if item != own[place]]
        assert windows[position].tolist() == expected + [0] * (length - len(expected))


def test_no_batch_without_times_shows_a_repeated_item_as_its_own_history():
    users, items = np.array([1, 1, 1, 2, 2]), np.array([3, 3, 4, 5, 5])  # liked and bought, each a positive event
    histories = Histories.from_events(users, items, np.zeros(5), user_rows=3)
    settings = {"item_rows": 6, "batch_size": 5, "history_length": 4, "ordered": False, "seed": 0}
    for epoch in range(5):
        for batch in RetrievalBatches(histories, **settings).epoch(epoch):
            told = zip(batch["items"][batch["target"]].tolist(), batch["items"][batch["history"]].tolist(), strict=True)
            windows = sorted((target, sorted(window, reverse=True)) for target, window in told)
            assert windows == [(3, [4, 0, 0, 0]), (3, [4, 0, 0, 0]), (4, [3, 3, 0, 0]), (5, [0] * 4), (5, [0] * 4)]
    private = PrivateBatches(
        histories, users=2, users_per_batch=2, events_per_user=3, history_length=4, ordered=False, entropy=(1,), block=2,
        noise_width=0,
    )  # fmt: skip
    batch = next(private.epoch(0))
    assert (batch["weight"] > 0).sum() == 5
    assert not ((batch["history"] == batch["target"][..., None]) & (batch["history"] > 0)).any()


@pytest.mark.parametrize("item_rows", [30, 500_000])
def test_batches_name_each_item_once_and_cover_every_event(item_rows):
    rng = np.random.default_rng(1)
    users, items, times = rng.integers(1, 20, 100), rng.integers(1, 30, 100), rng.integers(0, 50, 100)
    histories = Histories.from_events(users, items, times, user_rows=20)
    batches = RetrievalBatches(histories, item_rows=item_rows, batch_size=32, history_length=3, ordered=True, seed=4)
    seen = []
    for batch in batches.epoch(2):
        real = batch["weight"] > 0
        seen += list(zip(batch["user"][real].tolist(), batch["items"][batch["target"][real]].tolist(), strict=True))
        assert batch["items"].shape == (batches.capacity,) and batch["items"][0] == 0
        assert (batch["items"][batch["history"]][batch["history"] == 0] == 0).all()
        named = batch["items"][batch["items"] > 0]
        assert len(np.unique(named)) == len(named)
    assert sorted(seen) == sorted(zip(users.tolist(), items.tolist(), strict=True))
    again = [batch["user"].tolist() for batch in batches.epoch(2)]
    assert (
        again
        == [batch["user"].tolist() for batch in batches.epoch(2)]
        != [batch["user"].tolist() for batch in batches.epoch(3)]
    )


def test_compact_and_whole_catalogue_batches_mean_the_same():
    rng = np.random.default_rng(2)
    histories = Histories.from_events(rng.integers(1, 9, 60), rng.integers(1, 12, 60), np.arange(60), user_rows=9)
    small = RetrievalBatches(histories, item_rows=12, batch_size=16, history_length=4, ordered=True, seed=0)
    large = RetrievalBatches(histories, item_rows=10_000, batch_size=16, history_length=4, ordered=True, seed=0)
    for one, other in zip(small.epoch(0), large.epoch(0), strict=True):
        np.testing.assert_array_equal(one["items"][one["history"]], other["items"][other["history"]])
        np.testing.assert_array_equal(one["items"][one["target"]], other["items"][other["target"]])


def test_refuses_what_cannot_be_trained_on():
    empty = Histories.from_events(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), user_rows=2)
    with pytest.raises(ValueError, match="positive event"):
        RetrievalBatches(empty, item_rows=3, batch_size=4, history_length=2, ordered=True, seed=0)
