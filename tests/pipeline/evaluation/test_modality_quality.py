"""What modalities are worth: masked as an explanation masks them, other candidates asked for, differences in pairs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import modality_quality
from pipeline.evaluation.modality_quality import WITHOUT, judge_without_modalities, scores_without
from pipeline.metrics.metrics import ndcg_at_k
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import answer_fold, order_by
from pipeline.ranker.request_quality import wanted_items
from ranking.requests import group_requests
from ranking.serving_form import RankingServingForm
from tests.ranking.worlds import DAY, SMALL, planted_world

VISITS, ITEMS, RETRIEVED = 40, 60, 12


@pytest.fixture(scope="module")
def world():
    """A ranker as it was drawn, and visits in which everybody chooses what it likes best among what was retrieved."""
    planted = planted_world(VISITS, ITEMS, RETRIEVED)
    form = RankingServingForm.from_ranker(planted.ranker(SMALL), score_weights={"click": 1.0}, blend=0.01)
    rows, scores = planted.candidates.copy(), -np.sort(-planted.scores, axis=1)
    rows[::5, -3:] = 0
    # No index answers what was seen before.
    rows[(rows[:, :, None] == planted.history[:, None, :2]).any(axis=2)] = 0
    rows = np.take_along_axis(rows, np.argsort(rows == 0, axis=1, kind="stable"), axis=1)
    given = (planted.user, planted.history, rows, scores, planted.timestamp)
    liked = order_by(rows, np.asarray(form(*given)["score"]))[:, :3]
    requests = group_requests(
        np.repeat(planted.user, 3), liked.ravel(), np.repeat(planted.timestamp, 3), {"click": np.ones(3 * VISITS)}, DAY
    )
    requests = requests.with_past(planted.history, [line[:2] for line in planted.history])
    fold = RankingFold(requests, np.zeros((VISITS, 4)), rows, scores.astype(np.float32), planted.user, liked[:, 0])
    return SimpleNamespace(form=form, fold=fold, spec=planted.spec)


def test_what_is_hidden_is_what_a_mask_of_its_group_hides(world):
    groups = list(world.form.network.features.groups)
    for name, found in scores_without(world.form, world.fold, ["text", "image", "recency"]).items():
        mask = np.array([group != name for group in groups], np.float32)
        expected = answer_fold(lambda *given, mask=mask: world.form(*given, group_mask=mask), world.fold)["score"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_modality_is_told_with_its_difference_and_with_candidates_that_never_knew_it(world, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    items = rng.normal(size=(ITEMS + 1, 4)).astype(np.float32)
    queries = rng.normal(size=(VISITS, 4)).astype(np.float32)
    served = SimpleNamespace(items=items, history_length=6, queries=lambda profile, users, history: queries[users - 1])
    (tmp_path / "retrieval" / WITHOUT.format("image")).mkdir(parents=True)
    asked_for = []
    monkeypatch.setattr(modality_quality, "load_served", lambda run, variant: asked_for.append(variant) or served)
    monkeypatch.setattr(modality_quality, "past_histories", lambda *given: world.fold.requests.history)
    dataset = SimpleNamespace(
        profile=None, schema=world.spec.schema, items=pd.DataFrame({"created_at": np.zeros(ITEMS + 1, np.int64)})
    )
    wanted = wanted_items(world.fold.requests)
    full = ndcg_at_k(order_by(world.fold.rows, answer_fold(world.form, world.fold)["score"])[:, :10], wanted, 10)
    found = judge_without_modalities(
        dataset, tmp_path, world.form, world.fold, full, known_splits=("train",), seed=1
    )
    assert found["visits"] == VISITS and found["ndcg@10"] == [1.0, 1.0, 1.0]
    found = found["without"]
    assert list(found) == ["text", "image", "behaviour"] and asked_for == ["without_image"]
    assert set(found["text"]) == {"ranker"} and set(found["image"]) == {"ranker", "path"}
    assert full.mean() == 1.0  # they chose what it likes: whatever is hidden can only cost
    for name, parts in found.items():
        mine = scores_without(world.form, world.fold, [name])[name]
        expected = ndcg_at_k(order_by(world.fold.rows, mine)[:, :10], wanted, 10)
        assert parts["ranker"]["ndcg@10"][0] == pytest.approx(expected.mean())
        assert parts["ranker"]["difference"][0] == pytest.approx(expected.mean() - 1.0)
        assert parts["ranker"]["difference"][2] <= 0
    # The other model's first twelve, in its order, but for what was seen; its scores on the scale of the full model's.
    scores = queries @ items.T
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, world.fold.requests.history[:, :2].astype(int), -np.inf, axis=1)
    rows = np.argsort(-scores, axis=1)[:, :RETRIEVED]
    others = modality_quality.candidates_of(dataset, tmp_path, "without_image", world.form, world.fold, ("train",))
    np.testing.assert_array_equal(others.rows, rows)
    inside = world.fold.scores[world.fold.rows > 0]
    assert others.scores.mean() == pytest.approx(inside.mean(), abs=1e-4)
    assert others.scores.std() == pytest.approx(inside.std(), rel=1e-3)
    assert (np.diff(others.scores, axis=1) <= 0).all()
    monkeypatch.setattr(modality_quality, "MOST_VISITS", 30)
    fewer = judge_without_modalities(dataset, tmp_path, world.form, world.fold, full, known_splits=("train",), seed=1)
    assert fewer["visits"] == 30
    gaps = full.copy()
    gaps[:] = np.where(np.arange(len(full)) % 3 == 0, np.nan, full)
    told = judge_without_modalities(dataset, tmp_path, world.form, world.fold, gaps, known_splits=("train",), seed=1)
    assert told["visits"] < 30 and told["ndcg@10"] == [1.0, 1.0, 1.0]  # those without a value are in no mean
    mine = scores_without(world.form, others, ["image"])["image"]
    expected = ndcg_at_k(order_by(rows, mine)[:, :10], wanted, 10).mean()
    assert found["image"]["path"]["ndcg@10"][0] == pytest.approx(expected)
