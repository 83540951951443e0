"""What lists show, against loops; and intervals of many columns against those of one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.bootstrap import bootstrap_interval, bootstrap_means, bootstrap_ratios
from pipeline.metrics.list_metrics import average_popularity, exposure, gini, group_shares, intra_list_diversity

ITEMS = 9


@st.composite
def lists(draw):
    """Ranked rows [B, K] with padding at the end."""
    depth = draw(st.integers(1, 6))
    ranked = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(0, depth))
        ranked.append(list(draw(st.permutations(range(1, ITEMS + 1)))[:length]) + [0] * (depth - length))
    return np.array(ranked)


@given(lists(), st.integers(1, 6), st.integers(0, 1000))
def test_list_metrics_equal_the_written_out_loops(ranked, k, seed):
    rng = np.random.default_rng(seed)
    counts, vectors = rng.integers(0, 50, ITEMS + 1), rng.normal(size=(ITEMS + 1, 3))
    vectors[rng.random(ITEMS + 1) < 0.3] = 0
    shown, popular, unlike = [0.0] * (ITEMS + 1), [], []
    for rows in ranked.tolist():
        first = [row for row in rows[:k] if row]
        for place, row in enumerate(rows[:k], start=1):
            shown[row] += (1 / math.log2(1 + place)) if row else 0
        popular.append(sum(counts[row] for row in first) / len(first) if first else math.nan)
        told = [vectors[row] for row in first if np.linalg.norm(vectors[row]) > 0]
        gaps = [
            1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for place, a in enumerate(told)
            for other, b in enumerate(told)
            if place != other
        ]
        unlike.append(sum(gaps) / len(gaps) if gaps else math.nan)
    np.testing.assert_allclose(exposure(ranked, ITEMS, k), shown, atol=1e-12)
    np.testing.assert_allclose(average_popularity(ranked, counts, k), popular)
    np.testing.assert_allclose(intra_list_diversity(ranked, vectors, k), unlike, atol=1e-9)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(amounts):
    pairs = sum(abs(a - b) for a in amounts for b in amounts)
    total = sum(amounts)
    expected = pairs / (2 * len(amounts) * total) if total else math.nan
    assert gini(amounts) == pytest.approx(expected, nan_ok=True)


def test_gini_refuses_what_cannot_be_shared():
    with pytest.raises(ValueError, match="amounts: must be >= 0"):
        gini([1, -1])


def test_group_shares_add_up_and_leave_out_what_is_in_no_group():
    shares = group_shares([5.0, 1.0, 2.0, 3.0], [-1, 0, 2, 2], count=3)
    np.testing.assert_allclose(shares, [1 / 6, 0, 5 / 6])
    assert np.isnan(group_shares([0.0, 0.0], [0, 0], count=1)).all()


def test_columns_have_the_interval_that_each_has_alone():
    values = np.random.default_rng(3).normal(0.3, [0.2, 1.0], size=(400, 2))
    values[:50, 1] = np.nan
    low, high = bootstrap_means(values, np.random.default_rng(7))
    for column in range(2):
        alone = bootstrap_interval(values[:, column], np.random.default_rng(8))
        width = alone[1] - alone[0]
        assert (low[column], high[column]) == pytest.approx(alone, abs=0.1 * width)
    again = bootstrap_means(values[:, 1:], np.random.default_rng(7))
    # The same users are drawn, whatever columns stand beside.
    assert (again[0][0], again[1][0]) == pytest.approx((low[1], high[1]), rel=1e-12)


def test_a_ratio_of_sums_is_covered_as_often_as_its_level_says():
    """Users of different sizes: the mean over events is 0.5, whichever users were drawn."""
    rng, held = np.random.default_rng(5), 0
    for _ in range(150):
        size = rng.integers(1, 20, 120)
        earned = rng.binomial(size, rng.beta(5, 5, 120))
        low, high = bootstrap_ratios(earned[:, None], size[:, None], rng, resamples=300)
        held += low[0] <= 0.5 <= high[0]
    assert 0.88 <= held / 150 <= 0.99


def test_a_column_without_values_has_no_interval_and_bad_shapes_are_refused():
    low, high = bootstrap_means(np.array([[1.0, np.nan], [2.0, np.nan]]), np.random.default_rng(1), resamples=50)
    assert np.isnan([low[1], high[1]]).all()
    assert 1 <= low[0] <= high[0] <= 2
    with pytest.raises(ValueError, match="of one shape"):
        bootstrap_ratios(np.ones((2, 1)), np.ones((3, 1)), np.random.default_rng(1))
    with pytest.raises(ValueError, match="level: must lie in"):
        bootstrap_means(np.ones((2, 1)), np.random.default_rng(1), level=1.0)
