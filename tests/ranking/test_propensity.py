"""Inverse propensities undo what the log's policy and the places on its page did to the labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.propensity import propensity_weights


def shown_log(seed: int = 0, items: int = 200_000):
    """Items of which a policy shows what is liked anyway, so that shown ones are liked more than all are."""
    rng = np.random.default_rng(seed)
    liked = rng.random(items) < 0.3
    propensity = np.where(liked, 0.8, 0.2) * rng.uniform(0.5, 1.0, items)
    shown = rng.random(items) < propensity
    return liked, propensity.astype(np.float32), shown


def test_weighted_labels_are_those_of_everything_that_could_have_been_shown():
    liked, propensity, shown = shown_log()
    assert liked[shown].mean() > 0.55
    weights = propensity_weights(propensity[shown], cap=1000.0)
    assert np.average(liked[shown], weights=weights) == pytest.approx(liked.mean(), abs=0.01)


def test_examination_by_place_is_undone():
    """A page is read from the top: place r is looked at with probability 1 / r, and clicks follow looks and likes."""
    rng = np.random.default_rng(1)
    place, liked = rng.integers(1, 6, 300_000), rng.random(300_000) < 0.4
    click = liked & (rng.random(300_000) < 1 / place)
    weights = propensity_weights((1 / place).astype(np.float32), cap=1000.0)
    rates = [click[place == r].mean() for r in range(1, 6)]
    assert rates[0] > 4 * rates[4]
    mended = np.array([(weights * click)[place == r].mean() for r in range(1, 6)])
    np.testing.assert_allclose(mended / mended[0], 1.0, atol=0.05)


def test_the_cap_trades_variance_for_bias():
    liked, propensity, shown = shown_log()
    errors = [
        abs(np.average(liked[shown], weights=propensity_weights(propensity[shown], cap)) - liked.mean())
        for cap in (1.0, 3.0, 8.0)
    ]
    assert errors[0] > errors[1] > errors[2]
    heaviest = [propensity_weights(propensity[shown], cap).max() for cap in (1.0, 3.0, 8.0)]
    assert heaviest[0] == 1.0 < heaviest[1] < heaviest[2]


@given(
    st.lists(st.one_of(st.just(float("nan")), st.floats(1e-6, 1.0)), max_size=30),
    st.floats(0.0, 100.0),
)
def test_weights_are_positive_of_mean_one_and_fall_with_the_propensity(values, cap):
    propensity = np.array(values, np.float32)
    weights, known = propensity_weights(propensity, cap), np.isfinite(propensity)
    assert (weights > 0).all()
    assert (weights[~known] == 1).all()
    if known.any():
        assert weights[known].mean() == pytest.approx(1.0, rel=1e-4)
        order = np.argsort(propensity[known])
        assert (np.diff(weights[known][order]) <= 1e-6).all()
    if cap == 0:
        assert (weights == 1).all()
