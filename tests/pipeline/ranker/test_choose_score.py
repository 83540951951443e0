"""The choice of the score: it takes what helps, leaves what does not, and never loses to the retrieval order."""

import numpy as np
import pytest

from data.schema import Schema
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.ranker.choose_score import search_weights, standardised_scores
from ranking.config import RankerSpec
from ranking.score import weighted_score

USERS, KEPT = 300, 40


def world(seed, click, retrieval):
    """What users want depends on a taste; heads and retrieval see it through noise of the given sizes."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(USERS, KEPT))
    noisy = lambda size: taste + size * rng.normal(size=taste.shape)  # noqa: E731
    relevant = [np.flatnonzero(line > 1.5) + 1 for line in taste]
    sigmoid = lambda values: 1 / (1 + np.exp(-values))  # noqa: E731
    heads = {"click": 0.3 * sigmoid(noisy(click)), "skip": 0.5 * sigmoid(-noisy(0.5)), "like": 0.1 * sigmoid(noisy(5))}
    rows = np.tile(np.arange(1, KEPT + 1), (USERS, 1))

    def quality(score):
        ranked = np.take_along_axis(rows, np.argsort(-score, axis=1, kind="stable"), axis=1)
        return mean_over_users(ndcg_at_k(ranked, relevant, 10))

    return heads, noisy(retrieval), np.ones(taste.shape, bool), quality


def chosen(heads, retrieval, exists, quality):
    weights, blend = search_weights(heads, retrieval, exists, quality)
    return weights, blend, quality(weighted_score(heads, weights, blend, retrieval))


@pytest.mark.parametrize(("click", "retrieval"), [(0.5, 3.0), (1.0, 1.0), (20.0, 0.7), (1.0, 20.0)])
def test_never_loses_to_either_and_gains_by_both(click, retrieval):
    heads, scores, exists, quality = world(0, click, retrieval)
    heads = {"click": heads["click"]}
    weights, blend, found = chosen(heads, scores, exists, quality)
    alone = quality(heads["click"]), quality(scores)
    assert found >= max(alone)
    if click == retrieval:
        assert found > max(alone) + 0.02
        assert weights == {"click": 1.0} and blend > 0


def test_skips_count_against_an_item_and_a_useless_head_for_little():
    heads, scores, exists, quality = world(1, 1.0, 3.0)
    weights, _, found = chosen(heads, scores, exists, quality)
    assert weights["skip"] < 0
    assert found > quality(heads["click"]) + 0.02
    spread = lambda head: abs(weights.get(head, 0.0)) * heads[head].std()  # noqa: E731
    assert spread("like") < 0.5 * spread("skip")


def test_a_useless_ranker_leaves_the_retrieval_order():
    heads, scores, exists, quality = world(2, 1e6, 0.01)
    heads = {"click": heads["click"]}
    weights, blend, _ = chosen(heads, scores, exists, quality)
    assert weights == {}
    assert blend > 0


def test_scores_are_standardised_as_they_are_served():
    spec = RankerSpec(Schema(3, 9), score_center=2.0, score_scale=4.0)
    lowest = np.finfo(np.float32).min
    found = standardised_scores(spec, np.array([[5, 0]]), np.array([[6.0, lowest]], np.float32))
    assert found.tolist() == [[1.0, 0.0]]
