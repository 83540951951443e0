"""The cross layer against the formula written out."""

import numpy as np
import pytest

from ranking.crosses import CrossLayer


def written_out(x0, x, down, up, bias):
    """x0_i * (sum_j (x V)_j U_ji + b_i) + x_i, one number at a time; V is the identity at full rank."""
    result = np.zeros_like(x0)
    for line in range(len(x0)):
        inner = x[line] if down is None else np.array([sum(x[line] * down[:, r]) for r in range(down.shape[1])])
        for i in range(x0.shape[1]):
            result[line, i] = x0[line, i] * (sum(inner * up[:, i]) + bias[i]) + x[line, i]
    return result


@pytest.mark.parametrize("rank", [0, 2])
def test_equals_the_formula(rank):
    rng = np.random.default_rng(0)
    layer = CrossLayer(rank=rank)
    x0, x = rng.normal(size=(2, 4, 5)).astype(np.float32)
    layer(x0, x)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    down = np.asarray(layer.down) if rank else None
    expected = written_out(x0, x, down, np.asarray(layer.up), np.asarray(layer.bias))
    np.testing.assert_allclose(layer(x0, x), expected, rtol=1e-5, atol=1e-5)


def test_starts_near_the_identity():
    x = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
    np.testing.assert_allclose(CrossLayer(rank=3)(x, x), x, atol=0.2)


def test_two_layers_hold_third_order_products():
    x = np.array([[2.0, 3.0]], np.float32)
    layers = [CrossLayer(), CrossLayer()]
    y = layers[1](x, layers[0](x, x))
    for layer in layers:
        layer.up.assign(np.eye(2))
    y = layers[1](x, layers[0](x, x))
    # x1 = x0 x0 + x0; x2 = x0 x1 + x1 = x^3 + 2 x^2 + x.
    np.testing.assert_allclose(y, x**3 + 2 * x**2 + x, rtol=1e-6)


def test_config_survives():
    layer = CrossLayer.from_config(CrossLayer(rank=3, seed=5).get_config())
    assert (layer.rank, layer.seed) == (3, 5)


def test_wrong_arguments_say_so():
    with pytest.raises(ValueError, match="received -1"):
        CrossLayer(rank=-1)
    with pytest.raises(ValueError, match="width of x0"):
        CrossLayer()(np.ones((2, 3), "float32"), np.ones((2, 4), "float32"))
