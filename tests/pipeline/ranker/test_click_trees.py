"""Trees beside a network: they answer as LightGBM does, weigh what they know, and serve as they were fitted."""

import dataclasses
import json

import lightgbm
import numpy as np
import pytest

from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.ranker.calibrate import list_logits
from pipeline.ranker.click_trees import (
    SETTINGS,
    ClickTrees,
    candidate_weights,
    fit_again,
    fit_click_trees,
    stacking_factor,
    tables_of,
)
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import order_by
from pipeline.ranker.tree_examples import TreeExamples, list_inputs
from ranking.position_tower import PositionTower
from ranking.pruning import prune_ranker
from ranking.requests import Requests
from ranking.serving_form import RankingServingForm
from tests.pipeline.ranker.test_boosted_trees import CLICKS, HELD_OUT, TEST, TRAIN, lists_of
from tests.ranking.worlds import SMALL, planted_world


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=600)


@pytest.fixture(scope="module")
def ranker(world):
    return world.ranker(SMALL)


@pytest.fixture(scope="module")
def form(ranker):
    return RankingServingForm.from_ranker(ranker)


@pytest.fixture(scope="module")
def clicked(world):
    return world.appeal >= -np.sort(-world.appeal, axis=1)[:, CLICKS - 1 : CLICKS]


def examples(form, lists):
    return TreeExamples.of(form, lists, SMALL, np.random.default_rng(SMALL.seed))


def tree_margins(form, ranker, tables, lists):
    """What trees add to the click logits of lists, element by element."""
    whole = RankingServingForm.from_ranker(ranker, trees=tables)
    return list_logits(whole, lists)["click"][lists.mask] - list_logits(form, lists)["click"][lists.mask]


def fold_of(world, lines, clicked):
    """The world's requests, with all candidates as what the index answers and the clicked ones as what was chosen."""
    chosen = clicked[lines]
    start = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    items, nothing = world.candidates[lines][chosen], np.zeros(0, np.int32)
    requests = Requests(
        user=world.user[lines], timestamp=world.timestamp[lines], history=world.history[lines],
        context=np.zeros((len(lines), 0), np.int32), start=start, item=items, labels={"click": np.ones(len(items))},
        known={"click": np.ones(len(items), bool)}, position=0 * items, weight=np.ones(len(items)),
        seen_start=np.zeros(len(lines) + 1, np.int64), seen_item=nothing,
    )  # fmt: skip
    queries = np.zeros((len(lines), 1), np.float32)
    return RankingFold(requests, queries, world.candidates[lines], world.scores[lines], nothing, nothing)


@pytest.fixture(scope="module")
def fitted(world, form, clicked):
    before, after = (examples(form, lists_of(world, part, clicked)) for part in (TRAIN, HELD_OUT))
    return fit_click_trees(form, before, after, fold_of(world, HELD_OUT, clicked), SMALL)


def test_tables_answer_as_lightgbm_does(world, ranker, form, clicked):
    some = examples(form, lists_of(world, TRAIN, clicked))
    booster = lightgbm.train({**SETTINGS, "seed": 1, "min_data_in_leaf": 20}, some.dataset(), 30)
    lists = lists_of(world, TEST, clicked)
    x = form.network.features(form.tokens, form.present, None, list_inputs(form, lists, np.arange(len(lists))))
    columns = form.network.features.numbers
    found = tree_margins(form, ranker, tables_of(booster.dump_model(), columns), lists)
    asked = np.asarray(x)[lists.mask][:, columns]
    np.testing.assert_allclose(found, booster.predict(asked, raw_score=True), atol=1e-5)


def test_columns_that_trees_ask_about_are_no_coordinates_of_vectors(form):
    features = form.network.features
    groups = np.array(list(features.groups))[features.group_of_column[features.numbers]]
    counted = {name: int((groups == name).sum()) for name in features.groups}
    assert counted == {"text": 6, "image": 6, "behaviour": 6, "ids": 0, "profile": 0, "attributes": 2, "retrieval": 2,
                       "popularity": 3 + len(SMALL.popularity_half_lives), "price": 3, "recency": 2, "context": 5}  # fmt: skip


def test_a_ranker_with_trees_beats_its_untrained_network(world, ranker, form, clicked, fitted, tmp_path):
    trees, report = fitted
    assert report["rounds"] == trees.rounds == trees.tables.count > 5 and report["factor"] == trees.factor > 0
    whole = RankingServingForm.from_ranker(ranker, trees=trees.tables)
    asked = [table[TEST] for table in (world.user, world.history, world.candidates, world.scores, world.timestamp)]
    alone, joined = (np.asarray(each(*asked)["click"], np.float64) for each in (form, whole))
    margins = tree_margins(form, ranker, trees.tables, lists_of(world, TEST, clicked & False)).reshape(len(TEST), -1)
    np.testing.assert_allclose(joined, 1 / (1 + (1 / alone - 1) * np.exp(-margins)), atol=1e-5)
    order = lambda score: mean_over_users(ndcg_at_k(order_by(asked[2], score), wanted, 10))  # noqa: E731
    wanted = [asked[2][line][clicked[TEST[line]]] for line in range(len(TEST))]
    assert order(joined) > order(alone) + 0.1
    assert order(joined) > order(margins) - 0.02
    whole.save(tmp_path / "serving_form")
    (tmp_path / "click_trees.json").write_text(json.dumps({"rounds": trees.rounds, "factor": trees.factor}))
    np.testing.assert_array_equal(np.asarray(RankingServingForm.load(tmp_path / "serving_form")(*asked)["click"]), joined)
    kept = ClickTrees.load(tmp_path)
    assert kept.factor == trees.factor and kept.rounds == trees.rounds
    for name, table in vars(kept.tables).items():
        np.testing.assert_array_equal(table, getattr(trees.tables, name))
    pruned = prune_ranker(whole, 0.3, world.history)
    x0 = np.asarray(form.network.features(form.tokens, form.present, None, form.request_inputs(*asked)))
    np.testing.assert_array_equal(np.asarray(pruned.trees(x0)), np.asarray(whole.trees(x0)))


def test_trees_are_fitted_again_with_the_same_number_and_weight(world, ranker, form, clicked, fitted):
    trees = fitted[0]
    few = examples(form, lists_of(world, TRAIN[:4], clicked))  # too few for a leaf: what cannot grow adds nothing
    again = fit_again(trees, form, few, SMALL)
    assert again.tables.count == trees.rounds and again.factor == trees.factor
    lists = lists_of(world, TEST, clicked)
    assert np.ptp(tree_margins(form, ranker, again.tables, lists)) < 1e-5
    more = fit_again(trees, form, examples(form, lists_of(world, TRAIN, clicked)), SMALL)
    np.testing.assert_allclose(more.tables.leaves, trees.tables.leaves, atol=1e-6)


def test_the_weight_is_the_likeliest():
    rng = np.random.default_rng(3)
    logits, margins = rng.normal(size=(2, 200_000))
    truth = rng.random(200_000) < 1 / (1 + np.exp(-(0.8 * logits + 1.2 * margins - 2)))
    assert stacking_factor(logits, margins, truth) == pytest.approx(1.5, rel=0.05)
    assert stacking_factor(logits, -margins, truth) == 0.0


def test_what_places_add_is_not_learned_from_the_features(world, ranker, form):
    """Everything is equally good; what the index puts first was shown first, and clicked for that alone."""
    rng, tower = np.random.default_rng(4), PositionTower(50)
    logit = np.where(np.arange(1, 51) <= 4, 1.0, -2.0).astype(np.float32)
    tower.logits.assign(logit)
    place = (np.argsort(np.argsort(-world.scores, axis=1), axis=1) + 1).astype(np.int32)
    clicked = rng.random(place.shape) < 1 / (1 + np.exp(-logit[place - 1]))
    drawn = {}
    for name, part in (("before", TRAIN), ("test", TEST)):
        lists = lists_of(world, part, clicked)
        order = np.argsort(~clicked[part], axis=1, kind="stable")
        shown = np.pad(np.take_along_axis(place[part], order, axis=1), ((0, 0), (0, 1)))
        drawn[name] = dataclasses.replace(lists, position=shown)
    trees = ClickTrees(None, 12, 1.0)  # as many rounds, of the weight 1
    spread = {}
    for kind, position in (("blind", None), ("told", tower)):
        given = TreeExamples.of(form, drawn["before"], SMALL, np.random.default_rng(0), position)
        assert (given.offsets is None) == (position is None) and given.weights is None
        grown = fit_again(trees, form, given, SMALL)
        margins = tree_margins(form, ranker, grown.tables, drawn["test"])
        spread[kind] = margins.std()
        if position is not None:  # its mean is the logit of the rate, as that of trees that know no places
            rate = given.clicks.mean()
            assert margins.mean() == pytest.approx(np.log(rate / (1 - rate)), abs=0.4)
    assert spread["told"] < 0.4 * spread["blind"]


def test_lists_weights_reach_the_trees_and_their_factor(world, form, clicked):
    lists = lists_of(world, TRAIN, clicked)
    weight = np.where(lists.labels["click"] > 0, 3.0, 0.5).astype(np.float32)
    plain, given = (examples(form, each) for each in (lists, dataclasses.replace(lists, weight=weight)))
    assert plain.weights is None and plain.dataset().weight is None
    np.testing.assert_array_equal(given.weights, np.where(given.clicks > 0, 3.0, 0.5))
    np.testing.assert_array_equal(given.clicks, plain.clicks)
    rng = np.random.default_rng(3)
    logits, margins = rng.normal(size=(2, 20_000))
    truth, twice = rng.random(20_000) < 1 / (1 + np.exp(-logits - margins)), rng.integers(1, 4, 20_000)
    repeated = [np.repeat(column, twice) for column in (logits, margins, truth)]
    assert stacking_factor(logits, margins, truth, twice.astype(float)) == pytest.approx(stacking_factor(*repeated), rel=0.01)
    fold = fold_of(world, HELD_OUT, clicked)
    weighted = dataclasses.replace(fold.requests, weight=np.arange(len(fold.requests.item)) + 2.0)
    found = candidate_weights(weighted, fold.rows)
    for line, rows in enumerate(fold.rows):
        part = slice(weighted.start[line], weighted.start[line + 1])
        told = dict(zip(weighted.item[part].tolist(), weighted.weight[part].tolist(), strict=True))
        assert found[line].tolist() == [told.get(int(row), 1.0) for row in rows]


def test_without_trees_the_report_says_why(world, form, clicked):
    some = examples(form, lists_of(world, TRAIN[:4], clicked))
    fold = fold_of(world, HELD_OUT, clicked)
    found, report = fit_click_trees(form, some, some, fold, dataclasses.replace(SMALL, trees=0))
    assert found is None and "ranking.trees" in report["skipped"]
    dump = {"tree_info": [{"tree_structure": {
        "split_feature": 0, "decision_type": "==", "missing_type": "None", "threshold": "1||2",
        "left_child": {"leaf_value": 0.0}, "right_child": {"leaf_value": 1.0},
    }}]}  # fmt: skip
    with pytest.raises(ValueError, match=r"'<='.*'=='"):
        tables_of(dump, np.arange(3))
