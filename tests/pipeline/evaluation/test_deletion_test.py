"""The deletion test has known answers where one group decides, repeats itself, and can be failed."""

import dataclasses

import numpy as np
import pytest

from pipeline.evaluation.deletion_test import ShownItems, deletion_test
from ranking.explain import group_names
from ranking.serving_form import RankingServingForm
from tests.ranking.worlds import SMALL, planted_world


@pytest.fixture(scope="module")
def world():
    return planted_world(requests=30)


def shown_items(world, form, scores):
    ranked = np.asarray(form(world.user, world.history, world.candidates, scores, world.timestamp)["score"])
    context = np.zeros((len(world.user), 0), np.int32)
    return ShownItems(world.user, world.history, world.timestamp, context, world.candidates, scores, ranked)


def test_where_the_retrieval_score_is_all_there_is(world):
    """The ten items shown have z = 2, the two that are not z = 1: removal lowers the score where the donor is one of two
    in twelve, and a tie is no success."""
    form = RankingServingForm.from_ranker(world.ranker(SMALL), score_weights={"click": 0.0}, blend=0.1)
    scores = np.where(np.arange(12) < 10, 2.0, 1.0).astype(np.float32) * np.ones((30, 1), np.float32)
    result = deletion_test(form, shown_items(world, form, scores), cases=1000, seed=1)
    assert result["cases"] == 300  # ten items of thirty requests
    assert result["named"]["retrieval"] == 300 and sum(result["named"].values()) == 300
    assert result["agreement"] == 1.0
    for shares in result["shares"].values():
        assert shares["unknown"] == 1.0
        assert abs(shares["permuted"] - 2 / 12) < 4 * np.sqrt(2 / 12 * 10 / 12 / 300)
    assert result["share"] == result["shares"]["leave_one_out"]["permuted"] == result["always"]["share"]
    assert result["always"]["group"] == "retrieval"
    # Without it nothing is left that could lower any score.
    assert result["besides"]["shares"]["leave_one_out"] == {"permuted": 0.0, "unknown": 0.0}


def test_it_repeats_itself_and_padding_is_never_explained(world):
    ranker = world.ranker(SMALL)
    rng = np.random.default_rng(2)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    form = RankingServingForm.from_ranker(ranker)
    shown = shown_items(world, form, world.scores)
    padded = {
        name: np.pad(getattr(shown, name), ((0, 0), (0, 5)), constant_values=value)
        for name, value in (("rows", 0), ("retrieval_scores", 9.0), ("ranked", 9.0))
    }
    first, again, wide = (
        deletion_test(form, lists, cases=60, seed=3) for lists in (shown, shown, dataclasses.replace(shown, **padded))
    )
    assert first == again == wide
    assert set(first["named"]) == set(group_names(form))
    # An explanation by another removal knows more than chance of this one.
    assert first["shares"]["leave_one_out"]["permuted"] > 0.6


def test_nothing_to_remove_says_so(world):
    form = RankingServingForm.from_ranker(world.ranker(SMALL))
    shown = shown_items(world, form, world.scores)
    empty = dataclasses.replace(shown, rows=np.where(np.arange(30)[:, None] > 0, 0, shown.rows))
    with pytest.raises(ValueError, match=r"at least two requests with candidates.*received 1"):
        deletion_test(form, empty)
