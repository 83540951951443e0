"""Every kind of interaction and of experts keeps the ranker's promises: batches, padding, order, folding, saving."""

import dataclasses

import keras
import numpy as np
import pytest

from ranking.model import batch_inputs
from ranking.popularity import PopularityTable
from ranking.serving_form import RankingServingForm
from tests.ranking.worlds import DAY, NOW, SMALL, planted_world

KINDS = {
    "dcn, shared": {"interaction": "dcn", "experts": "shared"},
    "dlrm, mmoe": {"interaction": "dlrm", "experts": "mmoe", "purchase_given_click": True},
    "finalmlp, ple": {"interaction": "finalmlp", "experts": "ple", "category_weight": 0.1},
    "finalmlp alone": {"interaction": "finalmlp", "hidden": ()},
    "no crosses": {"cross_layers": 0, "popularity_half_lives": ()},
}


@pytest.fixture(scope="module")
def world():
    """The planted world with domains, contexts, and popularity of three days, the newest after every request."""
    world = planted_world(requests=8)
    schema = dataclasses.replace(world.spec.schema, attributes={"domain": 5}, context={"device": 3})
    spec = dataclasses.replace(
        world.spec, schema=schema, categories=4, popularity_moments=3, popularity_start=NOW - DAY, popularity_step=DAY
    )
    values = np.random.default_rng(3).normal(size=(3, 61, 2)).astype(np.float32)
    side = dataclasses.replace(world.side, popularity=PopularityTable(values, NOW - DAY, DAY))
    return dataclasses.replace(world, spec=spec, side=side)


@pytest.fixture(scope="module", params=list(KINDS))
def ranker(request, world):
    config = dataclasses.replace(SMALL, stream_hidden=(8,), fusion_heads=2, expert_count=2, **KINDS[request.param])
    if not config.popularity_half_lives:
        world = dataclasses.replace(world, side=dataclasses.replace(world.side, popularity=None))
    ranker = world.ranker(config)
    rng = np.random.default_rng(7)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    return ranker


CODES = np.arange(8)[:, None] % 3


def asked(world, lines=slice(None), columns=slice(None), newer=0):
    part = (world.candidates[lines][:, columns], world.scores[lines][:, columns], world.timestamp[lines] + newer)
    return world.user[lines], world.history[lines], *part, world.ranks[lines][:, columns], CODES[lines]


def logits(ranker, world, lines=slice(None), columns=slice(None), newer=0):
    user, history, candidates, scores, timestamp, ranks, context = asked(world, lines, columns, newer)
    inputs = batch_inputs(user, history, candidates, scores, ranks, timestamp, 61, context=context)
    return {head: np.asarray(values) for head, values in ranker(inputs).items()}


def test_batch_equals_single_and_order_does_not_matter(world, ranker):
    whole = logits(ranker, world)
    single = logits(ranker, world, slice(5, 6))
    order = np.random.default_rng(1).permutation(12)
    permuted = logits(ranker, world, columns=order)
    for head, values in whole.items():
        np.testing.assert_allclose(single[head][0], values[5], atol=1e-5)
        np.testing.assert_allclose(permuted[head], values[:, order], atol=1e-5)


def test_folded_equals_unfolded_with_the_newest_popularity(world, ranker, tmp_path):
    form = RankingServingForm.from_ranker(ranker, chunk=40)
    served = {name: np.asarray(values) for name, values in form(*asked(world)).items()}
    today = logits(ranker, world, newer=2 * DAY)
    past = logits(ranker, world)
    if ranker.config.popularity_half_lives:
        assert np.abs(today["click"] - past["click"]).max() > 1e-3
    form_of_the_past = RankingServingForm.from_ranker(ranker, newest=False)
    again = {name: np.asarray(values) for name, values in form_of_the_past(*asked(world)).items()}
    newer = {name: np.asarray(values) for name, values in form(*asked(world, newer=2 * DAY)).items()}
    for head in ranker.spec.heads:
        np.testing.assert_allclose(again[head], 1 / (1 + np.exp(-past[head])), atol=1e-5)
        np.testing.assert_allclose(newer[head], 1 / (1 + np.exp(-today[head])), atol=1e-5)
    form.save(tmp_path)
    loaded = RankingServingForm.load(tmp_path)
    for name, values in loaded(*asked(world)).items():
        np.testing.assert_array_equal(np.asarray(values), served[name])


def test_padding_changes_nothing(world, ranker):
    form = RankingServingForm.from_ranker(ranker)
    user, history, candidates, scores, timestamp, _, context = asked(world)
    wide = form(
        user,
        np.pad(history, ((0, 0), (0, 5))),
        np.pad(candidates, ((0, 0), (0, 4))),
        np.pad(scores, ((0, 0), (0, 4)), constant_values=np.finfo(np.float32).min),
        timestamp,
        context=context,
    )
    whole = form(user, history, candidates, scores, timestamp, context=context)
    for name, values in whole.items():
        np.testing.assert_allclose(np.asarray(wide[name])[:, :-4], np.asarray(values), atol=1e-6)


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm"])
def test_a_step_of_training_moves_what_it_should(world, weighting):
    config = dataclasses.replace(
        SMALL, experts="mmoe", expert_count=2, task_weighting=weighting, list_loss="lambdarank", sentiment_weight=0.1
    )
    ranker = world.ranker(config)
    ranker.compile(optimizer=keras.optimizers.SGD(0.1))
    rng = np.random.default_rng(0)
    click = (rng.random(world.candidates.shape) < 0.4).astype(np.float32)
    known = np.ones(click.shape, bool)
    labels = {"click": click, "purchase": click * (rng.random(click.shape) < 0.5), "skip": 1 - click, "mask": known}
    labels["known"] = {"click": known, "like": ~known, "purchase": known, "skip": known, "value": ~known}
    labels["weight"] = np.ones(click.shape, np.float32)
    user, history, candidates, scores, timestamp, ranks, context = asked(world)
    places = np.tile(np.arange(1, 13), (8, 1))
    inputs = batch_inputs(user, history, candidates, scores, ranks, timestamp, 61, context=context, position=places)
    kernels, tower = ranker.network.heads.kernels, ranker.position.logits
    expert = ranker.network.experts.experts[1].layers[0].kernel
    balance = ranker.weighting.trainable_variables[0]
    watched = {"expert": expert, "position": tower, "weighting": balance, **kernels}
    before = {name: np.asarray(weight) for name, weight in watched.items()}
    for _ in range(2):  # the heads start at 0, so that nothing below them moves in the first step
        assert np.isfinite(ranker.train_on_batch(inputs, labels))
    moved = {name for name, weight in watched.items() if (np.asarray(weight) != before[name]).any()}
    assert moved == set(watched) - {"like", "value"}  # of which nothing is known
    # The position is a matter of training: asked without it, or with it, the answer is the same.
    without = {name: values for name, values in inputs.items() if name != "position"}
    np.testing.assert_array_equal(np.asarray(ranker(inputs)["click"]), np.asarray(ranker(without)["click"]))
