"""Mixtures of experts and progressive extraction against loops; what is a task's own reaches no other task."""

import numpy as np
import pytest

from ranking.config import RankingConfig
from ranking.experts import build_experts

HEADS = ("click", "like", "skip")
WIDTH = 6


def built(kind, hidden=(5, 3), seed=0):
    config = RankingConfig(experts=kind, hidden=hidden, expert_count=2, dropout=0.3)
    layer = build_experts(WIDTH, HEADS, config, seed=1)
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return layer


@pytest.fixture
def x():
    return np.random.default_rng(2).normal(size=(4, WIDTH)).astype(np.float32)


def perceptron(layer, x):
    for dense in layer.layers:
        x = np.maximum(x @ np.asarray(dense.kernel) + np.asarray(dense.bias), 0)
    return x


def mixed(gate, x, outputs):
    logits = x @ np.asarray(gate.kernel)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    return sum(weight * output for weight, output in zip(weights, outputs, strict=True))


def test_mmoe_equals_the_loop(x):
    layer = built("mmoe")
    found = layer(x)
    assert tuple(found) == HEADS
    for line in range(len(x)):
        outputs = [perceptron(expert, x[line]) for expert in layer.experts]
        for head in HEADS:
            np.testing.assert_allclose(
                np.asarray(found[head])[line], mixed(layer.gates[head], x[line], outputs), rtol=1e-4, atol=1e-5
            )


def test_ple_equals_the_loop(x):
    layer = built("ple")
    found = layer(x)
    assert tuple(found) == HEADS
    for line in range(len(x)):
        state = {owner: x[line] for owner in ("shared", *HEADS)}
        for level, (experts, gates) in enumerate(layer.levels):
            assert {owner: len(group) for owner, group in experts.items()} == {"shared": 2, **dict.fromkeys(HEADS, 1)}
            seen = {owner: [perceptron(expert, state[owner]) for expert in group] for owner, group in experts.items()}
            new = {head: mixed(gates[head], state[head], seen[head] + seen["shared"]) for head in HEADS}
            if level == 0:
                everything = [output for outputs in seen.values() for output in outputs]
                new["shared"] = mixed(gates["shared"], state["shared"], everything)
            else:
                assert "shared" not in gates
            state = new
        for head in HEADS:
            np.testing.assert_allclose(np.asarray(found[head])[line], state[head], rtol=1e-3, atol=1e-4)


def test_a_tasks_own_experts_of_the_last_layer_reach_no_other(x):
    layer = built("ple")
    before = {head: np.asarray(values) for head, values in layer(x).items()}
    own = layer.levels[-1][0]["like"][0].layers[0]
    own.bias.assign(np.asarray(own.bias) + 1)
    after = {head: np.asarray(values) for head, values in layer(x).items()}
    assert np.abs(after["like"] - before["like"]).max() > 1e-3
    for head in ("click", "skip"):
        np.testing.assert_array_equal(after[head], before[head])


@pytest.mark.parametrize("kind", ["shared", "mmoe", "ple"])
def test_every_kind_says_its_width(kind, x):
    layer = built(kind)
    assert all(values.shape == (4, layer.width) for values in layer(x).values())


def test_without_layers_nothing_is_shared(x):
    layer = built("shared", hidden=())
    assert layer.width == 0
    assert all(values.shape == (4, 0) for values in layer(x).values())
    with pytest.raises(ValueError, match="mmoe"):
        RankingConfig(experts="mmoe", hidden=())
