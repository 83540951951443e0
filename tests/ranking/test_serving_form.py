"""The serving form against the ranker it was folded from."""

import dataclasses

import keras
import numpy as np
import pytest

from ranking.config import HEADS
from ranking.model import batch_inputs
from ranking.nearest_history import nearest_history
from ranking.serving_form import IDENTITY, RankingServingForm
from tests.ranking.worlds import SMALL, as_numpy, planted_world

CALIBRATIONS = {
    "click": {"kind": "platt", "slope": 0.7, "intercept": -0.4},
    "like": IDENTITY,
    "purchase": {"kind": "isotonic", "x": [-3.0, 0.0, 2.0], "y": [0.01, 0.1, 0.6]},
    "skip": {"kind": "platt", "slope": 2.0, "intercept": 0.0},
    "value": IDENTITY,
}
WEIGHTS = {"click": 1.0, "purchase": 2.0, "skip": -1.0}
BLEND = 0.05


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=20)


@pytest.fixture(scope="module")
def ranker(world):
    ranker = world.ranker(SMALL)
    rng = np.random.default_rng(4)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    return ranker


@pytest.fixture(scope="module")
def form(ranker):
    return RankingServingForm.from_ranker(ranker, CALIBRATIONS, WEIGHTS, BLEND, chunk=17)


def asked(world, lines=slice(None)):
    return tuple(getattr(world, name)[lines] for name in ("user", "history", "candidates", "scores", "timestamp"))


@pytest.mark.parametrize("interaction", ["dcn", "dlrm", "finalmlp"])
def test_a_catalogue_without_content_or_embeddings_is_ranked(world, tmp_path, interaction):
    schema = dataclasses.replace(world.spec.schema, modalities={})
    spec = dataclasses.replace(world.spec, schema=schema, embedding_width=0)
    bare = dataclasses.replace(world, spec=spec, tables={}, present=np.zeros((61, 0), bool))
    ranker = bare.ranker(dataclasses.replace(SMALL, item_embeddings=False, interaction=interaction, category_weight=0.1))
    inputs = batch_inputs(
        world.user, world.history, world.candidates, world.scores, world.ranks, world.timestamp, unique_items=61
    )
    answer = {"click": (world.appeal > 0).astype("float32"), "mask": np.ones(world.appeal.shape, bool)}
    ranker.compile(optimizer=keras.optimizers.Adam(0.01))
    losses = [ranker.train_on_batch(inputs, answer) for _ in range(10)]
    assert losses[-1] < losses[0]
    form = RankingServingForm.from_ranker(ranker, CALIBRATIONS, WEIGHTS, BLEND)
    form.save(tmp_path)
    kept, logits = as_numpy(RankingServingForm.load(tmp_path)(*asked(world))), np.asarray(ranker(inputs)["click"])
    np.testing.assert_allclose(kept["click"], 1 / (1 + np.exp(-(0.7 * logits - 0.4))), atol=1e-5)
    rows, cosines = nearest_history(form.tokens, form.present, world.history, world.candidates)
    assert rows.shape == cosines.shape == (20, 12, 0)


def test_folded_equals_unfolded(world, ranker, form):
    inputs = batch_inputs(
        world.user, world.history, world.candidates, world.scores, world.ranks, world.timestamp, unique_items=61
    )
    answer, logits = as_numpy(form(*asked(world))), as_numpy(ranker(inputs))
    click = 1 / (1 + np.exp(-(0.7 * logits["click"] - 0.4)))
    purchase = np.interp(logits["purchase"], CALIBRATIONS["purchase"]["x"], CALIBRATIONS["purchase"]["y"])
    np.testing.assert_allclose(answer["click"], click, atol=1e-5)
    np.testing.assert_allclose(answer["purchase"], purchase, atol=1e-5)
    skip = 1 / (1 + np.exp(-2 * logits["skip"]))
    standardised = (world.scores - world.spec.score_center) / world.spec.score_scale
    score = (click + 2 * purchase - skip) / 4 + BLEND * standardised
    np.testing.assert_allclose(answer["score"], score, atol=1e-5)
    assert set(answer) == {*HEADS, "score"}


def test_save_load_equal(world, form, tmp_path):
    form.save(tmp_path)
    again = RankingServingForm.load(tmp_path)
    assert (again.spec, again.config) == (form.spec, form.config)
    assert (again.calibrations, again.score_weights) == (form.calibrations, form.score_weights)
    assert again.blend == form.blend
    for name, values in form(*asked(world)).items():
        np.testing.assert_array_equal(again(*asked(world))[name], values)


def test_batch_equals_single_and_order_does_not_matter(world, form):
    whole = as_numpy(form(*asked(world)))
    single = as_numpy(form(*asked(world, slice(3, 4))))
    np.testing.assert_allclose(single["score"][0], whole["score"][3], atol=1e-6)
    order = np.random.default_rng(1).permutation(world.candidates.shape[1])
    user, history, candidates, scores, timestamp = asked(world)
    permuted = as_numpy(form(user, history, candidates[:, order], scores[:, order], timestamp))
    np.testing.assert_allclose(permuted["score"], whole["score"][:, order], atol=1e-6)


def test_padding_changes_nothing_and_says_so(world, form):
    user, history, candidates, scores, timestamp = asked(world)
    lowest = np.finfo(np.float32).min
    wide = as_numpy(
        form(
            user,
            np.pad(history, ((0, 0), (0, 9))),
            np.pad(candidates, ((0, 0), (2, 3))),
            np.pad(scores, ((0, 0), (2, 3)), constant_values=lowest),
            timestamp,
        )
    )
    whole = as_numpy(form(*asked(world)))
    for name, padding in (("click", 0), ("purchase", 0), ("score", -1)):
        np.testing.assert_allclose(wide[name][:, 2:-3], whole[name], atol=1e-6)
        assert (wide[name][:, :2] == padding).all()
        assert (wide[name][:, -3:] == padding).all()


def test_given_ranks_replace_those_of_the_list(world, form):
    whole, given = form(*asked(world)), form(*asked(world), world.ranks)
    np.testing.assert_allclose(given["click"], whole["click"], atol=1e-6)
    deep = form(*asked(world), world.ranks + 150)
    assert np.abs(np.asarray(deep["click"]) - np.asarray(whole["click"])).max() > 1e-5


def test_low_scores_keep_their_order_above_padding(world, ranker):
    asked = [table[:30] for table in (world.user, world.history, world.candidates, world.scores, world.timestamp)]
    plain, heavy = (
        np.asarray(RankingServingForm.from_ranker(ranker, CALIBRATIONS, {}, blend=blend)(*asked)["score"], np.float64)
        for blend in (0.01, 3.0)
    )
    whole = 300 * plain  # what the heavy blend would be were nothing bent
    exists = asked[2] > 0
    assert (whole[exists] < -1.5).sum() > 50 and (heavy[exists] > -1).all() and (heavy[~exists] == -1).all()
    low = exists & (whole < -0.9)
    np.testing.assert_allclose(heavy[low], -1 + 0.1**2 / (0.1 - 0.9 - whole[low]), atol=1e-5)
    np.testing.assert_allclose(heavy[exists & ~low], whole[exists & ~low], atol=1e-4)
    order = np.argsort(whole[exists])
    assert (np.diff(heavy[exists][order]) >= 0).all() and len(np.unique(heavy[low])) == len(np.unique(whole[low]))


@pytest.mark.parametrize("weights", [{"click": 0.0}, {}])
def test_the_blend_alone_is_the_retrieval_order(world, ranker, weights):
    form = RankingServingForm.from_ranker(ranker, CALIBRATIONS, weights, blend=0.1)
    score = as_numpy(form(*asked(world)))["score"]
    np.testing.assert_array_equal(np.argsort(-score, axis=1), np.argsort(-world.scores, axis=1))
    standardised = (world.scores - world.spec.score_center) / world.spec.score_scale
    np.testing.assert_allclose(score, 0.1 * standardised, atol=1e-5)


def test_nothing_trains_and_no_raw_content_travels(form):
    assert not form.trainable_variables
    rows, width = form.spec.schema.item_rows, max(form.spec.modalities.values())
    assert all(tuple(weight.shape) != (rows, width) for weight in form.weights)
    assert tuple(form.tokens.shape) == (rows, 3, SMALL.token_width)


def test_without_purchases_the_score_is_the_click(world):
    spec = dataclasses.replace(world.spec, heads=("click",))
    form = RankingServingForm.from_ranker(dataclasses.replace(world, spec=spec).ranker(SMALL))
    answer = as_numpy(form(*asked(world)))
    assert all((answer[head] == 0).all() for head in HEADS if head != "click")
    np.testing.assert_allclose(answer["score"], answer["click"])


def test_wrong_arguments_say_so(world, tmp_path):
    with pytest.raises(ValueError, match="purchase"):
        RankingServingForm(world.spec, SMALL, {"click": CALIBRATIONS["click"]}, WEIGHTS)
    for weights, blend in (({"click": 0.0}, 0.0), ({"click": 1.0}, -0.1)):
        with pytest.raises(ValueError, match="score_weights"):
            RankingServingForm(world.spec, SMALL, CALIBRATIONS, weights, blend)
    with pytest.raises(FileNotFoundError, match="train the ranking stage"):
        RankingServingForm.load(tmp_path)
