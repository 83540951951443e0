"""Boosted trees on a planted world: they learn what clicks follow, and nothing from how lists are written down."""

import importlib.machinery
import json
import sys

import numpy as np
import pytest

from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.ranker.boosted_trees import boosted_trees_report, fit_boosted_trees, load_boosted_trees, score_candidates
from pipeline.ranker.tree_examples import TreeExamples
from ranking.lists import RankingLists
from ranking.serving_form import RankingServingForm
from tests.ranking.worlds import SMALL, planted_world

REQUESTS, CLICKS = 600, 3
TRAIN, HELD_OUT, TEST = np.split(np.arange(REQUESTS), [300, 400])


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=REQUESTS)


@pytest.fixture(scope="module")
def form(world):
    return RankingServingForm.from_ranker(world.ranker(SMALL))


def lists_of(world, chosen, clicked):
    """Lists as the pipeline writes them: what was clicked stands first; the last place of each is padding."""
    order = np.argsort(~clicked[chosen], axis=1, kind="stable")
    take = lambda table: np.pad(np.take_along_axis(table[chosen], order, axis=1), ((0, 0), (0, 1)))  # noqa: E731
    candidates = take(world.candidates)
    mask = candidates > 0
    zeros = np.zeros(mask.shape, np.float32)
    return RankingLists(
        user=world.user[chosen], timestamp=world.timestamp[chosen], history=world.history[chosen],
        context=np.zeros((len(chosen), 0), np.int32), candidates=candidates, retrieval_scores=take(world.scores),
        retrieval_ranks=take(world.ranks), labels={"click": take(clicked.astype(np.float32))}, known={"click": mask},
        position=zeros.astype(np.int32), weight=zeros + 1, mask=mask,
    )  # fmt: skip


def examples(form, lists):
    return TreeExamples.of(form, lists, SMALL, np.random.default_rng(SMALL.seed))


def test_trees_find_what_clicks_follow_and_beat_the_retrieval_order(world, form, tmp_path):
    clicked = world.appeal >= -np.sort(-world.appeal, axis=1)[:, CLICKS - 1 : CLICKS]
    before, after = (examples(form, lists_of(world, part, clicked)) for part in (TRAIN, HELD_OUT))
    report = fit_boosted_trees(before, after, SMALL, tmp_path)
    assert report["rounds"] > 5
    assert report == json.loads((tmp_path / "boosted_trees.json").read_text())
    relevant = [world.candidates[line][clicked[line]] for line in TEST]
    order = np.argsort(-world.scores[TEST], axis=1)
    rows, scores = (np.take_along_axis(table[TEST], order, axis=1) for table in (world.candidates, world.scores))
    context = np.zeros((len(TEST), 0), np.int32)
    asked = (world.user[TEST], world.history[TEST], rows, scores, world.timestamp[TEST], context)
    booster = load_boosted_trees(tmp_path)
    whole = score_candidates(booster, form, *asked)
    ranked = np.take_along_axis(rows, np.argsort(-whole, axis=1), axis=1)
    found, by_retrieval = (mean_over_users(ndcg_at_k(order, relevant, 10)) for order in (ranked, rows))
    assert found > by_retrieval + 0.1
    for name in ("user_id", "item_id"):  # what is learned of single users and items does not reach the trees
        table = form.network.features.embeddings[name]
        kept = np.array(table)
        table.assign(kept + 5)
        np.testing.assert_array_equal(score_candidates(booster, form, *asked), whole)
        table.assign(kept)
    single = score_candidates(booster, form, *(array[3:4] for array in asked))
    np.testing.assert_allclose(single[0], whole[3], atol=1e-6)
    padded = [np.pad(array, ((0, 0), (0, 2))) if array is rows or array is scores else array for array in asked]
    found = score_candidates(booster, form, *padded)
    np.testing.assert_allclose(found[:, :-2], whole, atol=1e-6)
    assert np.isneginf(found[:, -2:]).all()


def test_trees_that_are_fitted_again_know_the_days_that_stopped_them(world, form, tmp_path):
    """From the held-out lists on clicks mean the opposite; only trees that have seen these still rank well there."""
    likes = np.concatenate([world.appeal[:300], -world.appeal[300:]])
    clicked = likes >= -np.sort(-likes, axis=1)[:, CLICKS - 1 : CLICKS]
    before, after = (examples(form, lists_of(world, part, clicked)) for part in (TRAIN[:30], HELD_OUT))
    asked = [table[TEST] for table in (world.user, world.history, world.candidates, world.scores, world.timestamp)]
    quality = {}
    for name, again in (("once", None), ("again", after)):
        report = fit_boosted_trees(before, after, SMALL, tmp_path, again=again)
        assert report["lists"] == (30 if again is None else len(HELD_OUT))
        found = score_candidates(load_boosted_trees(tmp_path), form, *asked, np.zeros((len(TEST), 0), np.int32))
        ranked = np.take_along_axis(asked[2], np.argsort(-found, axis=1), axis=1)
        quality[name] = mean_over_users(ndcg_at_k(ranked, [asked[2][i][clicked[TEST[i]]] for i in range(len(TEST))], 10))
    assert quality["again"] > quality["once"] + 0.02


def test_the_place_in_a_list_tells_the_trees_nothing(world, form, tmp_path):
    """Clicks at random, written first: a model that kept the order of ties would have an NDCG of almost 1."""
    rng = np.random.default_rng(1)
    clicked = np.argsort(np.argsort(rng.random(world.appeal.shape), axis=1), axis=1) < CLICKS
    before, after = (examples(form, lists_of(world, part, clicked)) for part in (TRAIN, np.concatenate([HELD_OUT, TEST])))
    report = fit_boosted_trees(before, after, SMALL, tmp_path)
    discount = 1 / np.log2(np.arange(2, 12))
    by_chance = CLICKS / 12 * discount.sum() / discount[:CLICKS].sum()
    assert report["valid_ndcg@10"] < by_chance + 0.05


def test_where_lightgbm_does_not_load_the_report_says_so(world, form, tmp_path, monkeypatch):
    class Broken:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return importlib.machinery.ModuleSpec(name, Broken) if name == "lightgbm" else None

        @staticmethod
        def create_module(spec):
            raise OSError("libgomp.so.1: cannot open shared object file")

        @staticmethod
        def exec_module(module):
            raise AssertionError("never reached")

    for name in [name for name in sys.modules if name.partition(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    clicked = world.appeal > 0
    some = examples(form, lists_of(world, TRAIN[:20], clicked))
    report = fit_boosted_trees(some, some, SMALL, tmp_path)
    assert "libgomp.so.1" in report["skipped"] and "apt" in report["skipped"]
    assert load_boosted_trees(tmp_path) is None
    assert boosted_trees_report(tmp_path) == report
