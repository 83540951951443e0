"""Propensities against frequencies: what is logged is how often it happens."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from ranking.array_ops import numpy_ops
from ranking.exploration import normal_cdf, thompson_probabilities
from ranking.policy import Policy
from ranking.rerank import Candidates, rerank

DRAWS = 40_000
REQUEST = Candidates(
    rows=np.array([[11, 12, 13, 14, 0]], np.int32),
    scores=np.array([[0.5, 0.45, 0.3, 0.28, 0.9]], np.float32),
    creator=np.array([[1, 1, 2, 3, 1]], np.int32),
    protected=np.array([[False, False, True, False, True]]),
    vectors=np.array([[[[1.0, 0], [0.9, 0.436], [0, 1], [-1, 0], [0, 0]]]], np.float32),
    deviation=np.array([[0.05, 0.1, 0.2, 0.01, 0.3]], np.float32),
)
POLICIES = {
    "epsilon": Policy(epsilon=0.3),
    "thompson": Policy(thompson=1.0),
    "both, with caps, a floor and novelty": Policy(
        epsilon=0.2, thompson=1.5, creator_cap=1, group_share=0.4, significance=0.5, mmr_lambda=0.8
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_page_is_as_frequent_as_the_product_of_its_propensities(name):
    k, rng = 3, np.random.default_rng(5)
    many = {
        field.name: np.repeat(getattr(REQUEST, field.name), DRAWS, axis=0)
        for field in dataclasses.fields(REQUEST)
        if getattr(REQUEST, field.name) is not None
    }
    many["uniforms"] = rng.random((DRAWS, k)).astype(np.float32)
    page = rerank(Candidates(**many), POLICIES[name], k, ops=numpy_ops)
    pages, chance = Counter(map(tuple, page.rows.tolist())), {}
    for rows, propensities in zip(page.rows.tolist(), page.propensities, strict=True):
        value = float(np.prod(propensities[np.array(rows) > 0]))
        assert chance.setdefault(tuple(rows), value) == pytest.approx(value, abs=1e-5)
    assert sum(chance.values()) == pytest.approx(1, abs=0.01) and len(pages) > 3
    for rows, value in chance.items():
        tolerance = 5 * np.sqrt(value * (1 - value) / DRAWS) + 1e-4
        assert pages[rows] / DRAWS == pytest.approx(value, abs=tolerance), rows
    # Place by place: given what stands above, an item is there as often as its propensity says.
    for place in range(k):
        for above in {rows[:place] for rows in pages}:
            among = [line for line, rows in enumerate(page.rows.tolist()) if tuple(rows[:place]) == above]
            if len(among) < 2_000:
                continue
            seen = {row: page.propensities[line, place] for line in among if (row := page.rows[line, place])}
            if seen:
                assert sum(seen.values()) == pytest.approx(1, abs=1e-4)


def test_thompson_chooses_as_draws_do():
    rng = np.random.default_rng(0)
    mean, deviation = rng.random((4, 6)).astype(np.float32), (0.02 + 0.4 * rng.random((4, 6))).astype(np.float32)
    deviation[1] = 1e-4  # all certain
    deviation[2, 0] = 0  # one certain among others
    allowed = rng.random((4, 6)) < 0.8
    allowed[3] = False
    found = thompson_probabilities(mean, deviation, allowed, ops=numpy_ops)
    drawn = mean + deviation * rng.normal(size=(200_000, 4, 6))
    best = np.where(allowed, drawn, -np.inf).argmax(axis=2)
    for line in range(3):
        frequency = np.bincount(best[:, line], minlength=6) / len(best)
        np.testing.assert_allclose(found[line], frequency, atol=0.01)
    assert not found[3].any()


def test_more_evidence_means_less_exploration_and_none_without_uncertainty():
    chances = [
        thompson_probabilities(REQUEST.scores, scale * REQUEST.deviation, REQUEST.rows > 0, ops=numpy_ops)[0]
        for scale in (2.0, 1.0, 0.25, 0.0)
    ]
    assert [chance.argmax() for chance in chances[1:]] == [0, 0, 0] or chances[3].argmax() == 0
    assert (np.diff([chance[0] for chance in chances[1:]]) > 0).all()
    np.testing.assert_allclose(chances[3], [1, 0, 0, 0, 0], atol=1e-6)


def test_the_distribution_function():
    x = np.linspace(-5, 5, 101)
    density = np.exp(-(np.linspace(-9, 5, 140_001) ** 2) / 2) / np.sqrt(2 * np.pi)
    exact = np.interp(x, np.linspace(-9, 5, 140_001), np.cumsum(density) * 1e-4)
    np.testing.assert_allclose(normal_cdf(x, ops=numpy_ops), exact, atol=6e-4)
