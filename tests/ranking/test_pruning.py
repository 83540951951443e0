"""Pruning: what is left answers as the whole with those units at 0, and the units that do nothing go first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ranking.explain import pair_features
from ranking.pruning import hidden_units, importance, kept_units, prune_ranker, typical_inputs
from ranking.serving_form import RankingServingForm
from tests.ranking.worlds import SMALL, planted_world

SHARE = 0.25


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=20)


@pytest.fixture(scope="module")
def history(world) -> np.ndarray:
    return np.concatenate([np.zeros((1, world.history.shape[1]), np.int32), world.history])


@pytest.fixture(scope="module")
def form(world) -> RankingServingForm:
    """Random weights; domains, so that the heads' shifts are cut as well."""
    schema = dataclasses.replace(world.spec.schema, attributes={"domain": 5})
    spec = dataclasses.replace(world.spec, schema=schema)
    ranker = dataclasses.replace(world, spec=spec).ranker(SMALL)
    rng = np.random.default_rng(4)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    return RankingServingForm.from_ranker(ranker, score_weights={"click": 1.0, "purchase": 1.0}, blend=0.02)


def ask(form: RankingServingForm, world) -> dict[str, np.ndarray]:
    answer = form(world.user, world.history, world.candidates, world.scores, world.timestamp)
    return {name: np.asarray(values) for name, values in answer.items()}


def by_loops(form: RankingServingForm, inputs: dict, kept: dict[str, np.ndarray]) -> np.ndarray:
    """The click logits of the whole network with all other units at 0, candidate by candidate."""
    network, features = form.network, np.asarray(pair_features(form, inputs), np.float64)
    click = [np.asarray(part["click"], np.float64) for part in (network.heads.kernels, network.heads.biases)]
    shift, offset = (np.asarray(part["click"], np.float64) for part in (network.heads.shifts, network.heads.offsets))
    domains = np.asarray(network.features.side.take("attributes", inputs["candidates"]))[..., 0]
    logits = np.zeros(features.shape[:2])
    for line, place in np.ndindex(*logits.shape):
        x0 = x = features[line, place]
        for number, cross in enumerate(network.interaction.crosses):
            inner = np.zeros(SMALL.cross_rank)
            inner[kept[f"cross_{number}"]] = (x @ np.asarray(cross.down))[kept[f"cross_{number}"]]
            x = x0 * (inner @ np.asarray(cross.up) + np.asarray(cross.bias)) + x
        straight, deep = x, x0
        for number, dense in enumerate(network.experts.bottom.layers):
            units = np.maximum(deep @ np.asarray(dense.kernel) + np.asarray(dense.bias), 0)
            deep = np.zeros_like(units)
            deep[kept[f"hidden_{number}"]] = units[kept[f"hidden_{number}"]]
        last = np.concatenate([straight, deep, [x0[network.features.score_column]]])
        domain = domains[line, place]
        logits[line, place] = last @ click[0][:, 0] + click[1][0]
        if domain:
            logits[line, place] += last @ shift[:, domain] + offset[domain]
    return logits


def test_what_is_left_answers_as_the_whole_with_those_units_at_zero(world, form, history):
    layers = hidden_units(form, history)
    kept = {name: kept_units(units, SHARE) for name, units in layers.items()}
    assert {name: len(rows) for name, rows in kept.items()} == {"cross_0": 6, "cross_1": 6, "hidden_0": 18, "hidden_1": 9}
    pruned = prune_ranker(form, SHARE, history)
    assert (pruned.config.hidden, pruned.config.cross_rank) == ((18, 9), 6)
    inputs = form.request_inputs(world.user, world.history, world.candidates, world.scores, world.timestamp)
    expected = by_loops(form, inputs, kept)
    np.testing.assert_allclose(ask(pruned, world)["click"], 1 / (1 + np.exp(-expected)), atol=1e-5)
    assert np.abs(ask(form, world)["click"] - ask(pruned, world)["click"]).max() > 1e-3
    saved = sum(np.asarray(weight).size for weight in form.weights) - sum(np.asarray(w).size for w in pruned.weights)
    width, heads, domains = form.network.features.width, len(form.spec.heads), 5
    crosses, dense = 2 * 2 * width * 2, 6 * (width + 1) + (24 * 12 - 18 * 9) + 3
    assert saved == crosses + dense + 3 * heads * (1 + domains)


def test_units_without_an_effect_go_first_and_nothing_changes(world, form, history, tmp_path):
    before = [np.asarray(weight) for weight in form.weights]
    rng = np.random.default_rng(1)
    try:
        for units in hidden_units(form, history).values():
            count = units.activations.shape[1]
            idle = rng.permutation(count)[: count // 4]
            for weight, first in units.outgoing:
                value = np.array(weight)
                value[first + idle] = 0
                weight.assign(value)
        whole, pruned = ask(form, world), prune_ranker(form, SHARE, history)
        for name, values in ask(pruned, world).items():
            np.testing.assert_allclose(values, whole[name], atol=1e-6, err_msg=name)
        pruned.save(tmp_path)
        again = RankingServingForm.load(tmp_path)
        np.testing.assert_array_equal(ask(again, world)["score"], ask(pruned, world)["score"])
    finally:
        for weight, value in zip(form.weights, before, strict=True):
            weight.assign(value)


def test_importance_is_activation_times_what_it_does(form, history):
    layers = hidden_units(form, history)
    cross, first, last = layers["cross_1"], layers["hidden_0"], layers["hidden_1"]
    features = np.asarray(pair_features(form, typical_inputs(form, history))).reshape(-1, form.network.features.width)
    up = np.asarray(form.network.interaction.crosses[1].up)
    for unit in range(SMALL.cross_rank):
        size = np.sqrt((cross.activations[:, unit] ** 2).mean())
        seen = np.sqrt((((features**2).mean(axis=0)) * up[unit] ** 2).sum())
        assert importance(cross)[unit] == pytest.approx(size * seen, rel=1e-4)
    kernel = np.asarray(form.network.experts.bottom.layers[1].kernel)
    expected = np.sqrt((first.activations**2).mean(axis=0)) * np.linalg.norm(kernel, axis=1)
    np.testing.assert_allclose(importance(first), expected, rtol=1e-4)
    assert (last.activations >= 0).all() and len(importance(last)) == 12


def test_a_share_of_nothing_and_what_cannot_be_pruned(world, form, history):
    assert prune_ranker(form, 0.0, history) is form
    assert prune_ranker(form, 0.99, history).config.hidden == (1, 1)
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"share must be in \[0, 1\), received"):
            prune_ranker(form, share, history)
    config = dataclasses.replace(SMALL, experts="mmoe", expert_count=2)
    mixed = RankingServingForm(form.spec, config, form.calibrations, {"click": 1.0})
    with pytest.raises(ValueError, match="experts 'shared' to lose units, received 'mmoe'"):
        prune_ranker(mixed, 0.5, history)
