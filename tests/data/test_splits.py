"""Splits against their definitions, written as loops: nothing of the future reaches training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import TEST, TRAIN, VALID
from data.splits import DAY, core, global_time, global_time_bounds, leave_last_out, newest_time, random_split
from data.validation import DatasetError

LOGS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 40), st.booleans()), min_size=1, max_size=60
)
FRACTIONS = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


def columns(log):
    users, items, timestamps, positive = (np.array(column) for column in zip(*log, strict=True))
    return users, items, timestamps, positive.astype(bool)


@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=60), FRACTIONS)
def test_global_time_never_trains_on_the_future(timestamps, fractions):
    timestamps = np.array(timestamps)
    split = global_time(timestamps, *fractions)
    valid_start, test_start = global_time_bounds(timestamps, *fractions)
    assert valid_start < test_start
    for moment, code in zip(timestamps, split, strict=True):
        assert code == (TRAIN if moment < valid_start else VALID if moment < test_start else TEST)


def test_global_time_windows_are_whole_days_of_the_span():
    start = 19_000 * DAY
    timestamps = np.arange(start, start + 90 * DAY, 3600)
    valid_start, test_start = global_time_bounds(timestamps, 0.15, 0.15)
    assert test_start == start + (90 - round(0.15 * 90)) * DAY
    assert test_start - valid_start == round(0.15 * 90) * DAY


@pytest.mark.parametrize("step", [3600, 60_000])
def test_global_time_is_not_moved_by_an_outlier(step):
    """Of two thousand events, and of a hundred and thirty."""
    start = 19_000 * DAY
    timestamps = np.arange(start, start + 90 * DAY, step)
    assert global_time_bounds(np.r_[0, timestamps], 0.15, 0.15) == global_time_bounds(timestamps, 0.15, 0.15)


@pytest.mark.parametrize("end", [0, 5 * 3600, 23 * 3600])
@pytest.mark.parametrize("rate", [20, 300, 5000])
def test_newest_time_is_that_of_the_last_event_of_a_log_without_any_ahead(rate, end):
    """Of a shop that nobody visits from one to seven at night, whatever the hour of the job; and of one that is never empty."""
    for seed in range(20):
        times = np.random.default_rng(seed).integers(0, 40 * DAY + end, 40 * rate)
        assert newest_time(times) == times.max()
        awake = times[(times % DAY < 3600) | (times % DAY >= 7 * 3600)]
        assert newest_time(awake) == awake.max()


@pytest.mark.parametrize("ahead", [[7], [20], [20, 20, 31], [9, 9.5, 30, 400 * 24]])
def test_newest_time_leaves_out_what_is_ahead_of_all_others(ahead):
    times = np.random.default_rng(1).integers(0, 40 * DAY, 8000)
    assert newest_time(np.r_[times.max() + np.array(ahead) * 3600, times].astype(int)) == times.max()
    few = np.arange(99)
    assert newest_time(np.r_[few, 400 * DAY]) == 400 * DAY, "too few to tell"
    later = times.max() + 12 * 3600 + np.arange(11)
    assert newest_time(np.r_[times, later]) == later.max(), "too many to be a fault"


@given(LOGS)
def test_leave_last_out_against_a_loop(log):
    users, _, timestamps, positive = columns(log)
    split = leave_last_out(users, timestamps, positive)
    for user in np.unique(users):
        mine = np.flatnonzero(users == user)
        mine = mine[np.argsort(timestamps[mine], kind="stable")]
        liked = [event for event in mine if positive[event]]
        expected, current = {}, TRAIN
        for event in mine:
            if len(liked) >= 3 and event == liked[-2]:
                current = VALID
            if len(liked) >= 3 and event == liked[-1]:
                current = TEST
            expected[event] = current
        assert {event: split[event] for event in mine} == expected
        assert sorted(split[mine].tolist()) == split[mine].tolist()


@given(LOGS, FRACTIONS, st.integers(0, 3))
def test_random_split_is_seeded_and_keeps_pairs_together(log, fractions, seed):
    users, items, _, _ = columns(log)
    split = random_split(users, items, *fractions, seed=seed)
    np.testing.assert_array_equal(split, random_split(users, items, *fractions, seed=seed))
    side = {}
    for user, item, code in zip(users, items, split, strict=True):
        assert side.setdefault((user, item), code) == code
    assert sum(code == TEST for code in side.values()) == round(fractions[1] * len(side))


def test_random_split_changes_with_the_seed():
    users, items = np.zeros(200, int), np.arange(200)
    assert (random_split(users, items, 0.2, 0.2, seed=1) != random_split(users, items, 0.2, 0.2, seed=2)).any()


@given(LOGS, st.integers(0, 4))
def test_core_is_the_largest_set_that_holds(log, k):
    users, items, _, positive = columns(log)
    keep = core(users, items, positive, k)
    expected = np.ones(len(users), bool)
    changed = k > 0
    while changed:
        changed = False
        for ids in (users, items):
            for one in np.unique(ids[expected]):
                if (expected & positive & (ids == one)).sum() < k:
                    expected &= ids != one
                    changed = True
    np.testing.assert_array_equal(keep, expected)


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (0.1, 1.0)])
def test_fractions_that_leave_no_training_are_refused(fractions):
    with pytest.raises(DatasetError, match="below 1 together"):
        global_time(np.arange(10), *fractions)
    with pytest.raises(DatasetError, match="below 1 together"):
        random_split(np.arange(10), np.arange(10), *fractions, seed=0)
