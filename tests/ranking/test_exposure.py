"""Floors against binomial sums, boosts against what they are to reach."""

import math

import numpy as np
import pytest

from ranking.array_ops import numpy_ops
from ranking.exposure import exposure_share, find_floor, find_group_boost, least_protected
from ranking.policy import Policy


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5, 0.8])
def test_a_floor_asks_for_about_the_share_unless_told_otherwise(share):
    found = least_protected(np.array([[share]]), np.array([[Policy().significance]]), 10, ops=numpy_ops)[0]
    assert found[-1] == pytest.approx(10 * share, abs=0.5)


@pytest.mark.parametrize(("share", "significance"), [(0.1, 0.1), (0.5, 0.05), (0.7, 0.25), (0.0, 0.1), (1.0, 0.1)])
def test_least_protected_is_the_binomial_quantile(share, significance):
    found = least_protected(np.array([[share]]), np.array([[significance]]), 30, ops=numpy_ops)[0]
    for prefix in range(1, 31):
        mass = [math.comb(prefix, m) * share**m * (1 - share) ** (prefix - m) for m in range(prefix + 1)]
        least = next(m for m in range(prefix + 1) if sum(mass[: m + 1]) > significance)
        assert found[prefix - 1] == least
    assert (np.diff(found) >= 0).all() and (np.diff(found) <= 1).all()


def test_the_boost_reaches_the_share_and_no_more():
    rng = np.random.default_rng(0)
    protected = rng.random((200, 50)) < 0.3
    scores = rng.random((200, 50)) - 0.2 * protected
    kept = rng.random((200, 50)) < 0.9
    before = exposure_share(scores, kept, protected, 10, 0.0)
    boost = find_group_boost(scores, kept, protected, 0.3, 10)
    assert before < 0.25 and exposure_share(scores, kept, protected, 10, boost) >= 0.3
    assert exposure_share(scores, kept, protected, 10, boost - 1e-3) < 0.3
    assert find_group_boost(scores, kept, protected, before / 2, 10) == 0
    assert find_group_boost(scores, kept, np.zeros_like(protected), 0.3, 10) == 10
    with pytest.raises(ValueError, match=r"share: must lie in \[0, 1\]"):
        find_group_boost(scores, kept, protected, 1.2, 10)


def test_exposure_share_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    scores, kept, protected = rng.random((7, 9)), rng.random((7, 9)) < 0.6, rng.random((7, 9)) < 0.5
    shown = total = 0.0
    for line in range(7):
        order = [item for item in np.argsort(-scores[line]) if kept[line, item]][:4]
        for place, item in enumerate(order, start=1):
            total += 1 / math.log2(1 + place)
            shown += protected[line, item] / math.log2(1 + place)
    assert exposure_share(scores, kept, protected, 4, 0.0) == pytest.approx(shown / total)


def test_the_floor_comes_nearest_to_the_share():
    """On pages of ten in which a floor of f means at least ceil(10 f) protected items."""
    own = np.random.default_rng(2).integers(0, 8, 500)
    share = lambda floor: float(np.maximum(own, math.ceil(10 * floor)).mean() / 10)  # noqa: E731
    for target in (0.4, 0.5, 0.7):
        floor = find_floor(share, target)
        nearest = min((math.ceil(10 * each) / 10 for each in np.arange(0, 1.01, 0.1)), key=lambda f: abs(share(f) - target))
        assert abs(share(floor) - target) == pytest.approx(abs(share(nearest) - target))
        assert floor < target
    assert find_floor(share, share(0.0)) == 0 and find_floor(lambda floor: math.nan, 0.3) == 0
