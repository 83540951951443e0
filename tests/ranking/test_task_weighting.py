"""Task weighting: formulas, where uncertainty settles, what GradNorm balances; the norm against a gradient."""

import keras
import numpy as np
import pytest
from keras import ops

from ranking.losses import binary_cross_entropy_loss
from ranking.task_weighting import TaskWeighting, shared_gradient_norm

WEIGHTS = {"click": 1.0, "like": 0.5}


def tensors(**values):
    return {name: ops.convert_to_tensor(np.float32(value)) for name, value in values.items()}


def gradient(layer, losses, norms):
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    with tf.GradientTape() as tape:
        value = layer(losses, norms)
    return [np.asarray(each) for each in tape.gradient(value, [v.value for v in layer.trainable_variables])]


def test_fixed_weights_are_as_given():
    layer = TaskWeighting("fixed", WEIGHTS)
    assert not layer.trainable_variables
    assert float(layer(tensors(click=0.3, like=2.0), {})) == pytest.approx(0.3 + 0.5 * 2.0)


def test_uncertainty_follows_the_formula_and_settles_where_it_should():
    layer = TaskWeighting("uncertainty", WEIGHTS)
    layer.uncertainty.assign([0.3, -1.0])
    losses = tensors(click=0.3, like=2.0)
    expected = np.exp(-0.3) * 0.3 + 0.15 + 0.5 * np.exp(1.0) * 2.0 - 0.5
    assert float(layer(losses, {})) == pytest.approx(expected, rel=1e-6)
    # d/du (w e^-u L + u / 2) = 0 where e^u = 2 w L.
    layer.uncertainty.assign(np.log([2 * 0.3, 2 * 0.5 * 2.0]))
    np.testing.assert_allclose(gradient(layer, losses, {})[0], 0, atol=1e-6)


def test_gradnorm_prefers_the_task_that_is_slow_and_whose_gradient_is_small():
    layer = TaskWeighting("gradnorm", {"click": 1.0, "like": 1.0}, alpha=1.0)
    norms = tensors(click=1.0, like=1.0)
    first = layer(tensors(click=1.0, like=4.0), norms)
    # At the first step every rate is 1, so that equal norms are on target.
    assert float(first) == pytest.approx(5.0)
    np.testing.assert_allclose(np.asarray(layer.first), [1.0, 4.0])
    slow = gradient(layer, tensors(click=0.5, like=3.6), norms)[0]
    assert slow[1] < 0 < slow[0]
    weak = gradient(layer, tensors(click=1.0, like=4.0), tensors(click=2.0, like=0.5))[0]
    assert weak[1] < 0 < weak[0]
    np.testing.assert_allclose(np.asarray(layer.first), [1.0, 4.0])


def test_gradnorm_equals_the_loop_and_keeps_the_sum():
    layer = TaskWeighting("gradnorm", WEIGHTS, alpha=1.5)
    layer(tensors(click=1.0, like=2.0), tensors(click=1.0, like=1.0))
    layer.balance.assign([0.4, -0.2])
    weights = 1.5 * np.exp([0.4, -0.2]) / np.exp([0.4, -0.2]).sum()
    np.testing.assert_allclose(np.asarray(layer.weights_now()), weights, rtol=1e-6)
    losses, norms = np.array([0.6, 1.8]), np.array([0.3, 0.1])
    rates = losses / [1.0, 2.0]
    lengths = weights * norms
    target = lengths.mean() * (rates / rates.mean()) ** 1.5
    expected = (weights * losses).sum() + np.abs(lengths - target).sum()
    found = layer(tensors(click=0.6, like=1.8), tensors(click=0.3, like=0.1))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_norm_is_that_of_the_gradient_at_the_heads_input():
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    rng = np.random.default_rng(0)
    x, kernel = tf.Variable(rng.normal(size=(3, 5, 4)).astype("f")), rng.normal(size=(4, 1)).astype("f")
    labels, mask = (rng.random((3, 5)) < 0.4).astype("f"), rng.random((3, 5)) < 0.7
    weight = rng.random((3, 5)).astype("f") * 3
    with tf.GradientTape() as tape:
        logits = tf.matmul(x, kernel)[..., 0]
        loss = binary_cross_entropy_loss(logits, labels, mask, weight)
    expected = np.linalg.norm(np.asarray(tape.gradient(loss, x)))
    found = shared_gradient_norm(logits, labels, weight * mask, kernel)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_wrong_arguments_say_so():
    with pytest.raises(ValueError, match="'even'"):
        TaskWeighting("even", WEIGHTS)
    with pytest.raises(ValueError, match="positive"):
        TaskWeighting("fixed", {"click": 0.0})
