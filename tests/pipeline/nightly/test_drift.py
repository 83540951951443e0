"""Drift against loops written out, and against samples whose distance is known."""

import math

import numpy as np
import pytest

from pipeline.nightly.drift import chance_stability, counts_of, mean_discrepancy, population_stability, sampled


def test_stability_index_is_the_written_out_sum_and_symmetric():
    one, other = [30, 0, 50, 0, 7], [10, 5, 60, 0, 3]
    used = [place for place in range(5) if one[place] + other[place]]
    index = 0.0
    for place in used:
        expected = (one[place] + 0.5) / (sum(one) + 0.5 * len(used))
        actual = (other[place] + 0.5) / (sum(other) + 0.5 * len(used))
        index += (actual - expected) * math.log(actual / expected)
    assert math.isclose(population_stability(one, other), index, rel_tol=1e-12)
    assert math.isclose(population_stability(other, one), index, rel_tol=1e-12)


def test_chance_is_what_equal_sources_reach():
    rng = np.random.default_rng(3)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    drawn = [(rng.multinomial(900, shares), rng.multinomial(200, shares)) for _ in range(300)]
    found = np.array([population_stability(*pair) for pair in drawn])
    expected = chance_stability(*drawn[0])
    assert 0.85 * expected < found.mean() < 1.15 * expected
    assert (found > chance_stability(*drawn[0], 3.0)).mean() < 0.03
    assert population_stability(rng.multinomial(900, shares), rng.multinomial(200, shares[::-1])) > chance_stability(
        *drawn[0], 3.0
    )


def test_numbers_are_counted_in_the_deciles_of_the_first():
    values = np.r_[np.arange(50.0), np.nan, np.nan]
    one, other = counts_of(values, [-5.0, 1000.0, np.nan])
    assert one.sum() == 52 and one[-1] == 2 and other[0] == other[-2] == other[-1] == 1 and other.sum() == 3


def test_mean_discrepancy_is_the_written_out_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(0.5, 1, size=(5, 3))
    every = np.concatenate([x, y])
    width = np.median([((every[i] - every[j]) ** 2).sum() for i in range(12) for j in range(i + 1, 12)])
    k = lambda a, b: math.exp(-((a - b) ** 2).sum() / width)  # noqa: E731
    expected = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    expected += sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    expected -= 2 * sum(k(a, b) for a in x for b in y) / 35
    assert math.isclose(mean_discrepancy(x, y)[0], expected, rel_tol=1e-9)
    with pytest.raises(ValueError, match=r"received \(1, 3\) and \(5, 3\)"):
        mean_discrepancy(x[:1], y)


def test_mean_discrepancy_tells_a_shift_from_chance():
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(40):
        squared, deviation = mean_discrepancy(rng.normal(size=(60, 4)), rng.normal(size=(40, 4)))
        ratios.append(squared / deviation)
    assert abs(np.mean(ratios)) < 0.5 and 0.6 < np.std(ratios) < 1.6
    squared, deviation = mean_discrepancy(rng.normal(size=(60, 4)), rng.normal(1.0, 1.0, size=(40, 4)))
    assert squared > 5 * deviation


def test_samples_are_seeded_and_without_repetition():
    rows = np.arange(100) * 3
    drawn = sampled(rows, 10, 7)
    assert np.array_equal(drawn, sampled(rows, 10, 7)) and len(set(drawn)) == 10 and np.isin(drawn, rows).all()
    assert not np.array_equal(drawn, sampled(rows, 10, 8))
