"""Paired tests where the answer is known: no difference at all, a small one that pairing alone can see, and exact counts."""

import itertools

import numpy as np
import pytest

from pipeline.metrics.significance import compare_paired, paired_differences, randomisation_p_value


def test_two_equal_models_are_called_different_as_often_as_the_level_says():
    """Under no difference p-values are uniform: about 5 % lie below 0.05, and 95 % of the intervals hold 0."""
    rng = np.random.default_rng(7)
    results = []
    for _ in range(300):
        hard = rng.random(80)
        results.append(
            compare_paired(hard + rng.normal(0, 0.2, 80), hard + rng.normal(0, 0.2, 80), rng, resamples=200)
        )
    below = np.mean([result.p_value < 0.05 for result in results])
    covered = np.mean([result.low <= 0 <= result.high for result in results])
    assert 0.02 < below < 0.085
    assert 0.89 < covered < 0.985


def test_a_small_true_difference_is_found_by_pairs_where_means_alone_could_not_show_it():
    rng = np.random.default_rng(7)
    hard = rng.random(400)  # users differ by 0.29 (standard deviation), the models by 0.01
    found = compare_paired(hard + 0.01 + rng.normal(0, 0.02, 400), hard + rng.normal(0, 0.02, 400), rng)
    assert found.low > 0.005
    assert found.high < 0.015
    assert found.p_value < 0.001
    unpaired_error = 2 * 1.96 * hard.std() / np.sqrt(400)
    assert found.difference < unpaired_error


def test_the_p_value_is_that_of_all_sign_patterns():
    values = np.array([0.5, -0.1, 0.3, 0.2, 0.0, 0.4, 0.05, -0.02])
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=len(values))]
    exact = np.mean(np.array(sums) >= abs(values.sum()) - 1e-12)
    assert randomisation_p_value(values, np.random.default_rng(1), resamples=40_000) == pytest.approx(exact, abs=0.004)


def test_no_difference_has_p_one_and_an_interval_of_zero():
    same = np.array([0.1, np.nan, 0.7])
    result = compare_paired(same, same, np.random.default_rng(1))
    assert result[:5] == (0.0, 0.0, 0.0, 1.0, 2)
    assert (result.wins, result.losses) == (0, 0)


def test_swapping_the_models_swaps_the_sign_alone():
    rng = np.random.default_rng(3)
    one, other = rng.random(60), rng.random(60)
    forth = compare_paired(one, other, np.random.default_rng(1))
    back = compare_paired(other, one, np.random.default_rng(1))
    assert forth.difference == -back.difference
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert (forth.p_value, forth.wins, forth.losses) == (back.p_value, back.losses, back.wins)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([0.1, 0.2], [0.1], "of one length"), ([0.1, float("nan")], [float("nan"), 0.1], "for the same users")],
)
def test_unpaired_values_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_differences(first, second)
