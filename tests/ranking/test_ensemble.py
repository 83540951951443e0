"""A deep ensemble: the mean of its members' own answers, wherever a ranker goes, and nothing else of one network changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ranking.ensemble import SEEDS_APART, RankingEnsemble, build_network, members_of
from ranking.explain import explain, group_names, pair_features
from ranking.model import Ranker, batch_inputs
from ranking.network import RankingNetwork
from ranking.pruning import hidden_units, prune_ranker
from ranking.serving_form import RankingServingForm
from serving.export_ranking import RankingModule
from serving.keras_weights import KerasWeights
from serving.request_history import ServingTables
from tests.ranking.worlds import SMALL, planted_world

MEMBERS = 3
PAIR = dataclasses.replace(SMALL, members=MEMBERS)
CALIBRATION = {"kind": "platt", "slope": 0.7, "intercept": -0.4}


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=20)


@pytest.fixture(scope="module")
def ranker(world) -> Ranker:
    return stirred(world.ranker(PAIR))


@pytest.fixture(scope="module")
def form(ranker) -> RankingServingForm:
    calibrations = {head: CALIBRATION for head in ranker.spec.heads}
    return RankingServingForm.from_ranker(ranker, calibrations, {"click": 1.0, "purchase": 2.0}, 0.05)


def stirred(ranker: Ranker) -> Ranker:
    """The same with noise on every weight, since many start at zero and members start with equal ones."""
    rng = np.random.default_rng(4)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    return ranker


def inputs_of(world, lines=slice(None)):
    given = (getattr(world, name)[lines] for name in ("user", "history", "candidates", "scores", "ranks", "timestamp"))
    return batch_inputs(*given, unique_items=61)


def asked(world, lines=slice(None)):
    return tuple(getattr(world, name)[lines] for name in ("user", "history", "candidates", "scores", "timestamp"))


def as_numpy(answer):
    return {name: np.asarray(values) for name, values in answer.items()}


def alone(ranker: Ranker, world, place: int) -> Ranker:
    """A ranker of one network with the weights of a member."""
    single = world.ranker(SMALL)
    for mine, theirs in zip(single.network.weights, members_of(ranker.network)[place].weights, strict=True):
        mine.assign(theirs)
    for mine, theirs in zip(single.content.weights, ranker.content.weights, strict=True):
        mine.assign(theirs)
    return single


def test_one_member_is_a_plain_network_and_a_first_member_starts_as_it_does(world, ranker):
    single, first = build_network(world.spec, SMALL), build_network(world.spec, PAIR)
    assert type(single) is RankingNetwork and members_of(single) == [single] and isinstance(first, RankingEnsemble)
    for mine, theirs in zip(single.trainable_weights, first.members[0].trainable_weights, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    drawn = [np.asarray(member.experts.bottom.layers[0].kernel) for member in first.members]
    assert all(np.abs(drawn[0] - other).max() > 0.1 for other in drawn[1:])
    later = build_network(world.spec, dataclasses.replace(SMALL, seed=SMALL.seed + SEEDS_APART))
    np.testing.assert_array_equal(np.asarray(later.experts.bottom.layers[0].kernel), drawn[1])


def test_the_answer_is_the_mean_of_what_each_says_alone(world, ranker, form):
    answer, inputs = as_numpy(ranker(inputs_of(world))), inputs_of(world)
    each = [as_numpy(alone(ranker, world, place)(inputs)) for place in range(MEMBERS)]
    assert np.abs(each[0]["click"] - each[1]["click"]).max() > 0.1
    served = as_numpy(form(*asked(world)))
    for head in ranker.spec.heads:
        mean = np.mean([one[head] for one in each], axis=0)
        np.testing.assert_allclose(answer[head], mean, atol=1e-4, err_msg=head)
        np.testing.assert_allclose(served[head], 1 / (1 + np.exp(-(0.7 * mean - 0.4))), atol=1e-4, err_msg=head)


def test_batch_equals_single_and_permuting_candidates_permutes_scores(world, form):
    whole = as_numpy(form(*asked(world)))["score"]
    np.testing.assert_allclose(np.asarray(form(*asked(world, slice(7, 8)))["score"]), whole[7:8], atol=1e-5)
    order = np.random.default_rng(0).permutation(world.candidates.shape[1])
    user, history, candidates, scores, time = asked(world)
    moved = np.asarray(form(user, history, candidates[:, order], scores[:, order], time)["score"])
    np.testing.assert_allclose(moved, whole[:, order], atol=1e-5)


def test_saved_and_loaded_answers_are_equal(world, form, tmp_path):
    form.save(tmp_path)
    again = RankingServingForm.load(tmp_path)
    assert again.config.members == MEMBERS
    for name, values in as_numpy(again(*asked(world))).items():
        np.testing.assert_array_equal(values, np.asarray(form(*asked(world))[name]), err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_stored_smaller_it_answers_nearly_the_same(world, form, precision):
    tables = form.row_tables()
    assert len({id(table) for table in tables}) == 2 + 2 * MEMBERS + 1
    stored = KerasWeights(form, "ranker", precision)
    kept = [value for value, weight in zip(stored.values, form.weights, strict=True) if id(weight) == id(tables[0])]
    assert kept[0].dtype.name == precision
    apart = np.abs(np.asarray(stored(*asked(world))["score"]) - np.asarray(form(*asked(world))["score"])).max()
    assert apart == 0 if precision == "float32" else 0 < apart < 0.02


def test_the_exported_ranker_answers_and_explains_as_the_one_in_python(world, form, tmp_path):
    users, items = len(world.user), world.spec.schema.item_rows - 1
    (tmp_path / "user_ids.txt").write_text("\n" + "".join(f"u{row}\n" for row in range(1, users + 1)))
    (tmp_path / "item_ids.txt").write_text("\n" + "".join(f"i{row}\n" for row in range(1, items + 1)))
    history = np.concatenate([np.zeros((1, world.history.shape[1]), np.int32), world.history])
    tables = ServingTables(
        tmp_path / "user_ids.txt", tmp_path / "item_ids.txt", np.zeros((users + 1, 1), np.int32), history,
        np.zeros(users + 2, np.int64), np.zeros(0, np.int32),
    )  # fmt: skip
    RankingModule(tables, form).save(tmp_path / "ranking")
    signatures = tf.saved_model.load(str(tmp_path / "ranking")).signatures
    request = {
        "user_id": tf.constant([f"u{row}" for row in world.user[:2]]),
        "recent_item_ids": tf.constant([[""], [""]]),
        "candidate_ids": tf.constant([[f"i{row}" for row in line] for line in world.candidates[:2]]),
        "retrieval_scores": tf.constant(world.scores[:2]),
        "timestamp": tf.constant(world.timestamp[:2]),
        **{name: tf.zeros((2, 0), tf.string) for name in ("context", "profile")},
    }
    answer, given = as_numpy(signatures["serving_default"](**request)), asked(world, slice(0, 2))
    for name, values in as_numpy(form(*given)).items():
        np.testing.assert_allclose(answer[name], values, atol=1e-5, err_msg=name)
    ranks = tf.constant(world.ranks[:2])
    told = as_numpy(signatures["explain"](**request, retrieval_ranks=ranks))
    reasons = as_numpy(explain(form, *given[:4], world.ranks[:2], given[4]))
    np.testing.assert_allclose(told["contributions"], reasons["contributions"], atol=1e-5)


def test_a_group_is_masked_in_every_member_and_explanations_follow_the_mean(world, ranker, form):
    names, features = group_names(form), form.network.features
    assert names == tuple(world.ranker(SMALL).network.features.groups)
    inputs = form.request_inputs(*asked(world))
    x0, mask = np.asarray(pair_features(form, inputs)), np.ones(len(names), np.float32)
    mask[names.index("image")] = 0
    masked = np.asarray(features(form.tokens, form.present, None, inputs, group_mask=mask))
    changed = np.flatnonzero(np.abs(masked - x0).max(axis=(0, 1)) > 0)
    columns = np.concatenate([np.arange(start, end) for start, end in features.groups["image"]])
    assert len(features.groups["image"]) == MEMBERS and set(changed) <= set(columns)
    assert all(set(changed) & set(range(start, end)) for start, end in features.groups["image"])
    # Where the score is the mean itself, its contributions are the means of the members' own.
    user, history, candidates, scores, time = asked(world, slice(0, 4))
    linear = {head: {"kind": "isotonic", "x": [-40.0, 40.0], "y": [0.0, 1.0]} for head in ranker.spec.heads}
    explained = [
        np.asarray(explain(one, user, history, candidates, scores, world.ranks[:4], time)["contributions"])
        for one in (
            RankingServingForm.from_ranker(of, linear)
            for of in (ranker, *(alone(ranker, world, place) for place in range(MEMBERS)))
        )
    ]
    np.testing.assert_allclose(explained[0], np.mean(explained[1:], axis=0), atol=1e-5)
    assert np.abs(explained[0]).max() > 1e-3


def test_every_member_loses_the_same_share_of_its_own_units(world, form, tmp_path):
    history = np.concatenate([np.zeros((1, world.history.shape[1]), np.int32), world.history])
    before = [np.asarray(weight) for weight in form.weights]
    try:
        for units in hidden_units(form, history).values():
            idle = np.random.default_rng(1).permutation(units.activations.shape[1])[: units.activations.shape[1] // 4]
            for weight, first in units.outgoing:
                value = np.array(weight)
                value[first + idle] = 0
                weight.assign(value)
        whole, pruned = as_numpy(form(*asked(world))), prune_ranker(form, 0.25, history)
        assert (pruned.config.hidden, pruned.config.cross_rank, pruned.config.members) == ((18, 9), 6, MEMBERS)
        for name, values in as_numpy(pruned(*asked(world))).items():
            np.testing.assert_allclose(values, whole[name], atol=1e-5, err_msg=name)
    finally:
        for weight, value in zip(form.weights, before, strict=True):
            weight.assign(value)


def test_members_learn_apart_each_by_its_own_loss(world, ranker):
    """A step's gradient of a member is that of the member alone: no loss of the mean couples them."""
    inputs, mask = inputs_of(world), np.ones(world.candidates.shape, bool)
    clicks = (world.appeal > np.median(world.appeal)).astype(np.float32)
    labels = {"click": clicks, "purchase": clicks, "mask": mask}

    def gradient(of: Ranker, place: int) -> tuple[np.ndarray, float]:
        kernel = members_of(of.network)[place].heads.kernels["click"]
        with tf.GradientTape() as tape:
            loss = of.compute_loss(y=labels, y_pred=of.network.each(*of.content(inputs["items"]), inputs["items"], inputs))
        return np.asarray(tape.gradient(loss, kernel.value)), float(loss)

    singles = [gradient(alone(ranker, world, place), 0) for place in range(MEMBERS)]
    for place, (slope, _) in enumerate(singles):
        found, loss = gradient(ranker, place)
        np.testing.assert_allclose(found, slope, atol=1e-4)
    assert loss == pytest.approx(sum(one for _, one in singles), rel=1e-4)
