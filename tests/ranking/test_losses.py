"""Both losses against loops, and what padding must not do to them."""

import math

import keras
import numpy as np
import pytest

from ranking.losses import binary_cross_entropy_loss, listwise_softmax_loss

LOSSES = [binary_cross_entropy_loss, listwise_softmax_loss]


def cross_entropy_loop(logits, labels, mask):
    terms = []
    for line in range(len(logits)):
        for place in range(logits.shape[1]):
            if mask[line, place]:
                probability = 1 / (1 + math.exp(-logits[line, place]))
                hit = labels[line, place]
                terms.append(-(hit * math.log(probability) + (1 - hit) * math.log(1 - probability)))
    return sum(terms) / len(terms)


def softmax_loop(logits, labels, mask):
    lists = []
    for line in range(len(logits)):
        places = [place for place in range(logits.shape[1]) if mask[line, place]]
        total = sum(math.exp(logits[line, place]) for place in places)
        positive = sum(labels[line, place] for place in places)
        if positive:
            terms = [labels[line, place] * math.log(math.exp(logits[line, place]) / total) for place in places]
            lists.append(-sum(terms) / positive)
    return sum(lists) / len(lists)


@pytest.fixture
def lists():
    rng = np.random.default_rng(3)
    mask = rng.random((6, 7)) < 0.7
    mask[0] = False
    labels = (rng.random((6, 7)) < 0.3).astype(np.float32)
    labels[1] = 0
    labels[2, 0], mask[2, 0] = 1, True
    return rng.normal(size=(6, 7)).astype(np.float32), labels, mask


@pytest.mark.parametrize(("loss", "loop"), [(LOSSES[0], cross_entropy_loop), (LOSSES[1], softmax_loop)])
def test_equals_the_loop(loss, loop, lists):
    assert float(loss(*lists)) == pytest.approx(loop(*lists), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_all_masked_is_zero(loss, lists):
    assert float(loss(lists[0], lists[1], np.zeros_like(lists[2]))) == 0.0


@pytest.mark.parametrize("filling", [0.0, 50.0, -50.0, np.inf, np.nan, np.finfo(np.float32).min])
@pytest.mark.parametrize("loss", LOSSES)
def test_padding_contributes_nothing(loss, filling, lists):
    logits, labels, mask = lists
    wide = np.concatenate([logits, np.full((6, 3), filling, np.float32)], axis=1)
    wide_labels = np.concatenate([labels, np.ones((6, 3), np.float32)], axis=1)
    wide_mask = np.concatenate([mask, np.zeros((6, 3), bool)], axis=1)
    assert float(loss(wide, wide_labels, wide_mask)) == pytest.approx(float(loss(logits, labels, mask)), rel=1e-6)


@pytest.mark.parametrize("mask_all", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_and_zero_on_padding(loss, mask_all, lists):
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    logits, labels, mask = lists
    logits, mask = logits * 100, mask & (not mask_all)
    logits[~mask] = np.finfo(np.float32).max
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(variable, labels, mask)
    gradient = np.asarray(tape.gradient(value, variable))
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    assert mask_all or (gradient[mask] != 0).any()


def test_listwise_ignores_a_constant(lists):
    logits, labels, mask = lists
    assert float(listwise_softmax_loss(logits + 3, labels, mask)) == pytest.approx(
        float(listwise_softmax_loss(logits, labels, mask)), rel=1e-5
    )
