"""Popularity as of the day: the decayed sum, and not one event of the future in it."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.model import Ranker
from ranking.popularity import DAY, MOST_MOMENTS, PopularityTable, decayed_counts, popularity_table
from tests.ranking.worlds import SMALL, planted_world


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.3, 20))
def test_equals_the_loop(seed, count, half_life):
    rng = np.random.default_rng(seed)
    item, time = rng.integers(1, 6, 40), rng.integers(0, 9 * DAY, 40)
    moments = np.sort(rng.choice(np.arange(1, 10 * DAY), count, replace=False))
    found = decayed_counts(item, time, moments, half_life, 6)
    for place, moment in enumerate(moments):
        for row in range(6):
            ages = [(moment - t) / DAY for i, t in zip(item, time, strict=True) if i == row and t < moment]
            np.testing.assert_allclose(found[place, row], sum(2.0 ** (-age / half_life) for age in ages), rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 500))
def test_later_events_change_nothing_before_them(seed, days):
    rng = np.random.default_rng(seed)
    start = 20_000 * DAY + int(rng.integers(0, DAY))
    item, time = rng.integers(1, 6, 60), start + rng.integers(-20 * DAY, days * DAY, 60)
    whole = popularity_table(item, time, start, (2.0, 9.0), 6)
    assert len(whole.values) <= MOST_MOMENTS + 1
    assert whole.start + (len(whole.values) - 1) * whole.step > time.max()
    moment = int(rng.integers(0, len(whole.values)))
    known = time < whole.start + moment * whole.step
    changed = popularity_table(np.where(known, item, 1 + item % 5), time, start, (2.0, 9.0), 6)
    np.testing.assert_array_equal(changed.values[: moment + 1], whole.values[: moment + 1])
    assert np.isfinite(whole.values).all()


def test_an_item_in_fashion_passes_one_that_was():
    item, time = np.array([1] * 9 + [2] * 5), np.array([0] * 9 + [40 * DAY] * 5)
    values = popularity_table(item, time, 41 * DAY, (7.0,), 4).values[-1, :, 0]
    assert values[2] > values[1] > values[3]
    assert values[0] == 0


def test_a_request_sees_its_own_day_and_a_release_the_newest():
    world = planted_world(requests=6)
    table = PopularityTable(np.random.default_rng(0).normal(size=(5, 61, 2)).astype(np.float16), 100 * DAY, 2 * DAY)
    spec = dataclasses.replace(
        world.spec, popularity_moments=5, popularity_start=table.start, popularity_step=table.step
    )
    ranker = Ranker(spec, SMALL)
    ranker.assign(dataclasses.replace(world.side, popularity=table), world.tables, world.present)
    side = ranker.network.features.side
    times = np.array([100 * DAY, 101 * DAY, 102 * DAY, 107 * DAY, 900 * DAY, 0])
    found = np.asarray(side.popularity(times, world.candidates))
    for line, moment in enumerate([0, 0, 1, 3, 4, 4]):
        np.testing.assert_array_equal(found[line], table.values[moment, world.candidates[line]].astype(np.float32))
    newest = table.newest()
    assert (newest.start, len(newest.values)) == (108 * DAY, 1)
    assert spec.newest().popularity_start == newest.start
