"""Explanations: equal to a loop that leaves one group out, exact where scores add up, and naming what decides."""

import dataclasses

import keras
import numpy as np
import pytest

from data.schema import Schema
from ranking.attribution import METHODS, attribute, attribution_plan, normalised_shares
from ranking.explain import explain, group_names, masked_scores, pair_features
from ranking.model import batch_inputs
from ranking.nearest_history import nearest_history
from ranking.serving_form import RankingServingForm
from ranking.tables import typical_rows
from tests.ranking.worlds import SMALL, as_numpy, planted_world


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=8)


@pytest.fixture(scope="module")
def form(world):
    ranker = world.ranker(SMALL)
    rng = np.random.default_rng(2)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    weights = {"click": 1.0, "purchase": 2.0, "skip": -1.0}
    return RankingServingForm.from_ranker(ranker, score_weights=weights, blend=0.05)


def asked(world, lines=slice(None), columns=slice(0, 3)):
    wide = (world.candidates, world.scores, world.ranks)
    candidates, scores, ranks = (array[lines][:, columns] for array in wide)
    return world.user[lines], world.history[lines], candidates, scores, ranks, world.timestamp[lines]


@pytest.mark.parametrize("method", METHODS)
def test_additive_scores_give_each_groups_own_term(method):
    terms = np.array([[0.5, -0.2, 0.0, 0.1], [1.0, 0.0, -3.0, 0.25]])  # [K, G]
    plan = attribution_plan(method, 4)
    scores = 0.3 + np.einsum("sg,kg->sk", plan.masks, terms)[None]
    np.testing.assert_allclose(np.asarray(attribute(scores, plan))[0], terms, atol=1e-6)


def test_integrated_gradients_are_the_integral():
    """f(m) = m0 m1 + m2^2 - 2 m2 m0: along m = a, the gradient is (a - 2a, a, 2a - 2a), and its integral (-.5, .5, 0)."""
    plan = attribution_plan("integrated_gradients", 3)
    m = plan.masks
    scores = (m[:, 0] * m[:, 1] + m[:, 2] ** 2 - 2 * m[:, 2] * m[:, 0])[None, :, None]
    np.testing.assert_allclose(np.asarray(attribute(scores, plan))[0, 0], [-0.5, 0.5, 0.0], atol=1e-6)


def test_shares_are_signed_and_sum_to_one_in_absolute_value():
    rng = np.random.default_rng(0)
    given = rng.normal(size=(4, 5, 6)).astype(np.float32)
    shares = np.asarray(normalised_shares(given))
    np.testing.assert_allclose(np.abs(shares).sum(axis=-1), 1, rtol=1e-6)
    assert (np.sign(shares) == np.sign(given)).all()


def test_unknown_methods_and_empty_rankers_are_refused():
    with pytest.raises(ValueError, match=r"leave_one_out.*received 'guess'"):
        attribution_plan("guess", 3)
    with pytest.raises(ValueError, match="at least 1, received 0"):
        attribution_plan("leave_one_out", 0)


def test_leaving_one_group_out_equals_a_loop(world, form):
    """Each group is replaced in the features by hand, one request, one candidate and one group at a time."""
    user, history, candidates, scores, ranks, timestamp = asked(world)
    answer = as_numpy(explain(form, user, history, candidates, scores, ranks, timestamp))
    features, rows = form.network.features, typical_rows(world.spec.schema.item_rows)
    middle = np.full((1, len(rows)), (SMALL.retrieved + 1) / 2, np.float32)
    zeros = np.full((1, len(rows)), world.spec.score_center, np.float32)
    for b in (0, 5):
        one = slice(b, b + 1)
        typical = form.request_inputs(user[one], history[one], rows[None], zeros, timestamp[one], middle)
        typical = np.asarray(features(form.tokens, form.present, None, typical)).mean(axis=1)[0]
        for k in range(3):
            inputs = form.request_inputs(
                user[one], history[one], candidates[one, k : k + 1], scores[one, k : k + 1], timestamp[one],
                ranks[one, k : k + 1],
            )  # fmt: skip
            x = np.asarray(features(form.tokens, form.present, None, inputs))[0, 0]
            z = (scores[b, k] - world.spec.score_center) / world.spec.score_scale
            whole = float(form.answer(x[None, None], candidates[one, k : k + 1], np.float32([[z]]))["score"][0, 0])
            assert answer["score"][b, k] == pytest.approx(whole, abs=1e-6)
            for g, (name, ranges) in enumerate(features.groups.items()):
                without = x.copy()
                for start, end in ranges:
                    without[start:end] = typical[start:end]
                left = np.float32([[0.0 if name == "retrieval" else z]])
                score = float(form.answer(without[None, None], candidates[one, k : k + 1], left)["score"][0, 0])
                assert answer["contributions"][b, k, g] == pytest.approx(whole - score, abs=2e-6), name


def test_the_score_explained_is_the_score_served(world, form):
    user, history, candidates, scores, ranks, timestamp = asked(world)
    served = np.asarray(form(user, history, world.candidates, world.scores, timestamp)["score"])[:, :3]
    answer = as_numpy(explain(form, user, history, candidates, scores, ranks, timestamp))
    np.testing.assert_allclose(answer["score"], served, atol=1e-6)


def test_batch_equals_single_and_again_equals_before(world, form):
    whole = as_numpy(explain(form, *asked(world)))
    again = as_numpy(explain(form, *asked(world)))
    single = as_numpy(explain(form, *asked(world, slice(3, 4), slice(1, 2))))
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_allclose(single[name][0, 0], values[3, 1], atol=1e-6)


def test_padding_has_no_reasons(world, form):
    user, history, candidates, scores, ranks, timestamp = asked(world)
    padded = np.pad(candidates, ((0, 0), (0, 1)))
    wide = [np.pad(array, ((0, 0), (0, 1)), constant_values=value) for array, value in
            ((scores, np.finfo(np.float32).min), (ranks, 0))]  # fmt: skip
    answer, whole = (
        as_numpy(explain(form, user, history, padded, *wide, timestamp)),
        as_numpy(explain(form, user, history, candidates, scores, ranks, timestamp)),
    )
    assert (answer["score"][:, 3] == -1).all()
    for name in ("contributions", "shares", "nearest_rows", "cosines"):
        assert (answer[name][:, 3] == 0).all()
        np.testing.assert_allclose(answer[name][:, :3], whole[name], atol=1e-6)


def test_a_masked_retrieval_score_is_not_blended_in(world):
    ranker = world.ranker(SMALL)
    form = RankingServingForm.from_ranker(ranker, score_weights={"click": 0.0}, blend=0.1)
    user, history, candidates, scores, ranks, timestamp = asked(world)
    names = group_names(form)
    answer = as_numpy(explain(form, user, history, candidates, scores, ranks, timestamp))
    place = names.index("retrieval")
    np.testing.assert_allclose(answer["contributions"][..., place], 0.1 * scores, atol=1e-6)
    assert (np.delete(answer["contributions"], place, axis=-1) == 0).all()
    mask = np.ones(len(names), np.float32)
    mask[place] = 0
    assert (np.asarray(form(user, history, candidates, scores, timestamp, group_mask=mask)["score"]) == 0).all()


def test_masked_scores_equal_the_forms_own_mask(world, form):
    user, history, candidates, scores, ranks, timestamp = asked(world)
    inputs = form.request_inputs(user, history, candidates, scores, timestamp, ranks)
    masks = np.random.default_rng(3).integers(0, 2, (4, len(group_names(form)))).astype(np.float32)
    found = masked_scores(form, pair_features(form, inputs), inputs, form.network.features.neutral(), masks)
    for place, mask in enumerate(masks):
        expected = form(user, history, candidates, scores, timestamp, ranks, group_mask=mask)["score"]
        np.testing.assert_allclose(np.asarray(found)[:, place], np.asarray(expected), atol=1e-6)


def test_nearest_history_equals_a_loop():
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(20, 2, 5)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    present = (rng.random((20, 2)) < 0.7).astype(np.float32)
    tokens, present[0] = tokens * present[..., None], 0
    history = rng.integers(0, 20, (6, 4)).astype(np.int32)
    candidates = rng.integers(0, 20, (6, 3)).astype(np.int32)
    history[0] = 0
    history[1, 0] = candidates[1, 0] = 7
    rows, cosines = (np.asarray(part) for part in nearest_history(tokens, present, history, candidates))
    for b, k, m in np.ndindex(6, 3, 2):
        c = candidates[b, k]
        able = [h for h in history[b] if h and h != c and present[h, m]] if c and present[c, m] else []
        best = max(able, key=lambda h: tokens[h, m] @ tokens[c, m], default=0)
        assert rows[b, k, m] == best
        assert cosines[b, k, m] == pytest.approx(tokens[best, m] @ tokens[c, m] if best else 0, abs=1e-6)
    rows, cosines = nearest_history(tokens, present, np.zeros((2, 0), np.int32), candidates[:2])
    assert (np.asarray(rows) == 0).all() and (np.asarray(cosines) == 0).all()


def test_where_only_the_sound_decides_the_sound_is_named():
    """Clicks follow the cosine of sounds alone; all else is noise."""
    world = planted_world(requests=64, items=80, kept=16)
    tables = {"text": world.tables["text"], "audio": world.tables["image"], "behaviour": world.tables["behaviour"]}
    schema = Schema(65, 81, {"age": 4}, {"category": 5}, {"text": 7, "audio": 10})
    spec = dataclasses.replace(world.spec, schema=schema, heads=("click",))
    world = dataclasses.replace(world, spec=spec, tables=tables)
    sound = world.tables["audio"] / np.maximum(np.linalg.norm(world.tables["audio"], axis=1, keepdims=True), 1e-9)
    alike = np.einsum("bld,bkd->bk", sound[world.history], sound[world.candidates]) / world.history.shape[1]
    liked = (alike > 0.5) & world.present[world.candidates, 1]
    scores = np.random.default_rng(5).normal(size=alike.shape).astype(np.float32)
    world = dataclasses.replace(world, scores=scores)
    ranker = world.ranker(dataclasses.replace(SMALL, dropout=0.0, id_dropout=1.0 - 1e-6, list_loss="none"))
    inputs = batch_inputs(world.user, world.history, world.candidates, scores, world.ranks, world.timestamp, 81)
    labels = {"click": liked.astype(np.float32), "mask": np.ones(liked.shape, bool)}
    ranker.compile(optimizer=keras.optimizers.Adam(0.02))
    for _ in range(40):
        ranker.train_on_batch(inputs, labels)
    form = RankingServingForm.from_ranker(ranker)
    answer = as_numpy(explain(form, world.user, world.history, world.candidates, scores, world.ranks, world.timestamp))
    assert answer["score"][liked].mean() > 0.9 and answer["score"][~liked].mean() < 0.1
    names = np.array(group_names(form))
    named = names[answer["contributions"].argmax(axis=-1)]
    assert (named[liked] == "audio").mean() > 0.95
    # What it sounds like is something of the same style, as the vectors have it.
    near = answer["nearest_rows"][liked][:, 1]
    assert (np.einsum("nd,nd->n", sound[near], sound[world.candidates[liked]]) > 0.5).mean() > 0.95
    against = answer["contributions"][~liked & world.present[world.candidates, 1]][:, names == "audio"]
    assert np.median(against) < 0
