"""Kinds and time gaps of a history's events: against a loop, and in batches."""

import numpy as np

from data.batches import RetrievalBatches
from data.histories import Histories


def build(kinds=True, size=60, seed=0):
    rng = np.random.default_rng(seed)
    users, items, times = rng.integers(1, 6, size), rng.integers(1, 9, size), rng.integers(0, 30, size)
    marks = rng.integers(1, 12, size)
    return Histories.from_events(users, items, times, user_rows=6, kinds=marks if kinds else None)


def test_events_equal_the_loop():
    histories, length = build(), 5
    positions = np.arange(60)
    places = histories.places_before(positions, length)
    events = histories.events_at(places, histories.timestamps[positions])
    users = histories.users
    for position in positions:
        moment = histories.timestamps[position]
        earlier = [
            place for place in range(60) if users[place] == users[position] and histories.timestamps[place] < moment
        ][::-1][:length]
        kinds, gaps, later = [0] * length, [-1.0] * length, moment
        for step, place in enumerate(earlier):
            kinds[step], gaps[step] = histories.kinds[place], later - histories.timestamps[place]
            later = histories.timestamps[place]
        assert events["kind"][position].tolist() == kinds
        assert events["gap"][position].tolist() == gaps
        assert histories.before(positions, length)[position].tolist() == [
            *(histories.items[place] for place in earlier), *([0] * (length - len(earlier)))
        ]


def test_batches_carry_events_beside_their_items_only_where_kinds_are_kept():
    settings = {"item_rows": 9, "batch_size": 32, "history_length": 5, "ordered": True, "seed": 3}
    plain = list(RetrievalBatches(build(kinds=False), **settings).epoch(1))
    told = list(RetrievalBatches(build(), **settings).epoch(1))
    assert "kind" not in plain[0] and "gap" not in plain[0]
    for before, after in zip(plain, told, strict=True):
        for name, values in before.items():
            np.testing.assert_array_equal(values, after[name])
        assert after["kind"].shape == after["gap"].shape == after["history"].shape == (32, 5)
        np.testing.assert_array_equal(after["kind"] > 0, after["history"] > 0)
        assert ((after["gap"] >= 0) == (after["history"] > 0))[after["weight"] > 0].all()
    assert told[-1]["kind"][told[-1]["weight"] == 0].max() == 0


def test_shuffled_events_keep_their_item_and_know_no_time():
    histories = build()
    shuffled = histories.shuffled(np.random.default_rng(1))
    pairs = sorted(zip(histories.users, histories.items, histories.kinds, strict=True))
    assert sorted(zip(shuffled.users, shuffled.items, shuffled.kinds, strict=True)) == pairs
    settings = {"item_rows": 9, "batch_size": 60, "history_length": 5, "ordered": False, "seed": 3}
    batch = next(RetrievalBatches(histories, **settings).epoch(0))
    assert (batch["gap"] == -1).all() and (batch["kind"] > 0).any()
