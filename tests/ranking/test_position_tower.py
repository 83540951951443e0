"""The position tower: its formula, and that it finds a planted bias of the page without taking the clicks themselves."""

import keras
import numpy as np
import pytest

from ranking.losses import binary_cross_entropy_loss
from ranking.position_tower import PositionTower


def test_equals_the_loop():
    tower = PositionTower(3)
    tower.logits.assign([0.5, -0.2, 1.0])
    position = np.array([[1, 2, 0], [3, 7, 1]], np.int32)
    bias = {1: 0.5, 2: -0.2, 3: 1.0, 7: 1.0}
    mean = np.mean([bias[place] for place in position.ravel() if place])
    expected = [[bias[place] - mean if place else 0.0 for place in line] for line in position]
    np.testing.assert_allclose(tower(position), expected, atol=1e-6)


def test_unknown_places_add_nothing():
    tower = PositionTower(3)
    tower.logits.assign([0.5, -0.2, 1.0])
    np.testing.assert_array_equal(tower(np.zeros((2, 4), np.int32)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="received 0"):
        PositionTower(0)


def test_being_shown_says_nothing_and_places_are_found():
    """Entries shown at places 1 to 4 are clicked, those never shown are not: only differences between places are learned."""
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    rng = np.random.default_rng(0)
    true = np.array([0.9, 0.3, -0.3, -0.9])
    position = np.concatenate([np.tile(np.arange(1, 5), (4000, 1)), np.zeros((4000, 4), int)], axis=1).astype(np.int32)
    chance = 1 / (1 + np.exp(-true))
    click = np.concatenate([rng.random((4000, 4)) < chance, np.zeros((4000, 4), bool)], axis=1).astype(np.float32)
    tower, mask = PositionTower(4), np.ones(click.shape, bool)
    for _ in range(200):
        with tf.GradientTape() as tape:
            loss = binary_cross_entropy_loss(tower(position), click, mask)
        tower.logits.assign_sub(10 * tf.convert_to_tensor(tape.gradient(loss, tower.logits.value)))
    found = np.asarray(tower.logits)
    np.testing.assert_allclose(found - found.mean(), true, atol=0.1)
    assert abs(float(np.asarray(tower(position))[:, :4].mean())) < 1e-5
