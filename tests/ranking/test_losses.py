"""Every loss against a loop, and what padding, weights and constants must not do to them."""

import math

import numpy as np
import pytest

from ranking.losses import binary_cross_entropy_loss, lambdarank_loss, listwise_softmax_loss
from tests.towers.gradients import value_and_gradients

LOSSES = [binary_cross_entropy_loss, listwise_softmax_loss, lambdarank_loss]


def places_of(mask):
    return [[place for place in range(mask.shape[1]) if mask[line, place]] for line in range(len(mask))]


def cross_entropy_loop(logits, labels, mask, weights):
    total = count = 0.0
    for line, places in enumerate(places_of(mask)):
        for place in places:
            probability = 1 / (1 + math.exp(-logits[line, place]))
            hit, weight = labels[line, place], weights[line, place]
            total -= weight * (hit * math.log(probability) + (1 - hit) * math.log(1 - probability))
            count += weight
    return total / count


def softmax_loop(logits, labels, mask, weights):
    total = count = 0.0
    for line, places in enumerate(places_of(mask)):
        below = sum(math.exp(logits[line, place]) for place in places)
        positive = sum(labels[line, place] for place in places)
        for place in places:
            if positive:
                share = weights[line, place] * labels[line, place] / positive
                total -= share * math.log(math.exp(logits[line, place]) / below)
                count += share
    return total / count


def lambdarank_loop(logits, labels, mask, weights, k=10):
    total = count = 0.0
    discount = lambda place: 1 / math.log2(1 + place) if place <= k else 0.0  # noqa: E731
    for line, places in enumerate(places_of(mask)):
        gain = {place: 2 ** float(labels[line, place]) - 1 for place in places}
        order = sorted(places, key=lambda place: -logits[line, place])
        rank = {place: 1 + order.index(place) for place in places}
        ideal = sum(g * discount(1 + at) for at, g in enumerate(sorted(gain.values(), reverse=True)))
        pairs = [(i, j) for i in places for j in places if gain[i] > gain[j]]
        for i, j in pairs:
            weight = weights[line, i] * weights[line, j]
            change = (gain[i] - gain[j]) * abs(discount(rank[i]) - discount(rank[j])) / ideal
            total += weight * change * math.log(1 + math.exp(logits[line, j] - logits[line, i]))
            count += weight / len(pairs)
    return total / count


LOOPS = [cross_entropy_loop, softmax_loop, lambdarank_loop]


@pytest.fixture
def lists():
    """Logits, labels (of three grades, so that some tie), mask, weights; one list is empty, one has no positive."""
    rng = np.random.default_rng(3)
    mask = rng.random((6, 7)) < 0.7
    mask[0] = False
    labels = rng.choice([0, 0, 0.5, 1], (6, 7)).astype(np.float32)
    labels[1] = 0
    labels[2, 0], mask[2, 0] = 1, True
    mask[3] = np.arange(7) == 2
    return rng.normal(size=(6, 7)).astype(np.float32), labels, mask, rng.random((6, 7)).astype(np.float32)


@pytest.mark.parametrize(("loss", "loop"), list(zip(LOSSES, LOOPS, strict=True)))
def test_equals_the_loop(loss, loop, lists):
    *arrays, weights = lists
    assert float(loss(*arrays)) == pytest.approx(loop(*arrays, np.ones_like(weights)), rel=1e-5)
    assert float(loss(*arrays, weights=weights)) == pytest.approx(loop(*arrays, weights), rel=1e-5)
    assert float(loss(*arrays, weights=7 * weights)) == pytest.approx(loop(*arrays, weights), rel=1e-5)


def test_the_cut_of_lambdarank(lists):
    *arrays, weights = lists
    for k in (1, 3):
        assert float(lambdarank_loss(*arrays, k)) == pytest.approx(
            lambdarank_loop(*arrays, np.ones_like(weights), k), rel=1e-5
        )


@pytest.mark.parametrize("loss", LOSSES)
def test_all_masked_is_zero(loss, lists):
    assert float(loss(lists[0], lists[1], np.zeros_like(lists[2]))) == 0.0
    assert float(loss(*lists[:3], weights=np.zeros_like(lists[3]))) == 0.0


@pytest.mark.parametrize("filling", [0.0, 50.0, -50.0, np.inf, np.nan, np.finfo(np.float32).min])
@pytest.mark.parametrize("loss", LOSSES)
def test_padding_contributes_nothing(loss, filling, lists):
    logits, labels, mask, weights = lists
    wide = lambda array, value: np.concatenate([array, np.full((6, 3), value, array.dtype)], axis=1)  # noqa: E731
    padded = loss(wide(logits, filling), wide(labels, 1), wide(mask, False), weights=wide(weights, filling))
    assert float(padded) == pytest.approx(float(loss(logits, labels, mask, weights=weights)), rel=1e-6)


@pytest.mark.parametrize("loss", [binary_cross_entropy_loss, listwise_softmax_loss])
def test_a_list_of_weight_two_is_that_list_twice(loss, lists):
    *arrays, _ = lists
    weights = np.where(np.arange(6) == 2, 2, 1)[:, None] * np.ones((1, 7), np.float32)
    twice = [np.concatenate([array, array[2:3]]) for array in arrays]
    assert float(loss(*arrays, weights=weights)) == pytest.approx(float(loss(*twice)), rel=1e-5)


@pytest.mark.parametrize("mask_all", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_and_zero_on_padding(loss, mask_all, lists):
    logits, labels, mask, weights = lists
    logits, mask = logits * 100, mask & (not mask_all)
    logits[~mask] = np.finfo(np.float32).max
    _, (gradient,) = value_and_gradients(lambda values: loss(values, labels, mask, weights=weights), [logits])
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    assert mask_all or (gradient[mask] != 0).any()


def test_lambdas_are_burges():
    """-1 / (1 + exp(s_i - s_j)) |delta NDCG| for the better of a pair, its opposite for the worse (Burges 2010, eq. 3)."""
    logits, labels = np.array([[0.3, 1.2, -0.5]], np.float32), np.array([[1.0, 0.0, 0.0]], np.float32)
    _, (gradient,) = value_and_gradients(
        lambda values: lambdarank_loss(values, labels, np.ones((1, 3), bool)), [logits]
    )
    expected = np.zeros(3)
    rank = [2, 1, 3]
    for j in (1, 2):
        change = abs(1 / math.log2(1 + rank[0]) - 1 / math.log2(1 + rank[j]))  # one relevant item: IDCG is 1
        force = change / (1 + math.exp(logits[0, 0] - logits[0, j]))
        expected += force * (np.arange(3) == j) - force * (np.arange(3) == 0)
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_listwise_losses_ignore_a_constant(loss, lists):
    logits, labels, mask, _ = lists
    assert float(loss(logits + 3, labels, mask)) == pytest.approx(float(loss(logits, labels, mask)), rel=1e-5)
