"""A world whose answer is known: even users take even items, odd users odd ones, each with one item withheld."""

import numpy as np
import pytest

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import recall_at_k
from pipeline.metrics.top_k import select_top_k, top_k
from pipeline.peers.baselines_factors import BPR, ImplicitALS
from pipeline.retrieval.baselines import EASE, ItemKNN, Popularity, score_users, to_sparse

USERS, ITEMS = 60, 40
MODELS = [Popularity(), ItemKNN(neighbours=20, shrinkage=1.0), EASE(regularisation=5.0)]
PERSONAL = [*MODELS[1:], ImplicitALS(factors=4, weight=20.0), BPR(factors=4, learning_rate=0.1)]


def name_of(model):
    return type(model).__name__


@pytest.fixture(scope="module")
def checkerboard():
    """(train, withheld) over user rows 0..USERS; row 0 has nothing."""
    train, withheld = [[]], [[]]
    for user in range(1, USERS + 1):
        own = [item for item in range(1, ITEMS + 1) if item % 2 == user % 2]
        missing = own[user // 2 % len(own)]
        train.append([item for item in own if item != missing])
        withheld.append([missing])
    return Interactions.from_lists(train), Interactions.from_lists(withheld)


@pytest.mark.parametrize("model", PERSONAL, ids=name_of)
def test_the_withheld_item_comes_first(model, checkerboard):
    train, withheld = checkerboard
    users = np.arange(1, USERS + 1)
    rows, _ = top_k(score_users(model.fit(train, ITEMS), train, users), users, train, k=1, block=7)
    assert recall_at_k(rows, withheld.select(users), 1).min() == 1.0


def test_popularity_cannot_know_and_ranks_by_count():
    train = Interactions.from_lists([[1, 2], [2, 3], [2, 3], [4]])
    scores = Popularity().fit(train, items=5).score(Interactions.empty(2))
    assert scores.tolist() == [[0, 1, 3, 2, 1, 0]] * 2


@pytest.mark.parametrize("model", [*MODELS, PERSONAL[2]], ids=name_of)
def test_scores_depend_on_the_history_alone(model, checkerboard):
    train, _ = checkerboard
    fitted = model.fit(train, ITEMS)
    batch = fitted.score(train.select([1, 2, 0]))
    assert batch.shape == (3, ITEMS + 1)
    assert batch.dtype == np.float32
    for line, user in enumerate([1, 2, 0]):
        np.testing.assert_allclose(fitted.score(train.select([user]))[0], batch[line], rtol=1e-5, atol=1e-6)


def test_folding_in_is_the_weighted_ridge_regression_of_the_users_items(checkerboard):
    """x = (YᵀY + Σ_i (α − 1) y_i y_iᵀ + λI)⁻¹ Σ_i α y_i over the items i of the set."""
    train, _ = checkerboard
    model = ImplicitALS(factors=3, regularisation=0.7, weight=5.0).fit(train, ITEMS)
    items = model.items.astype(np.float64)
    own = [1, 2, 7]
    gram = items.T @ items + 4.0 * items[own].T @ items[own] + 0.7 * np.eye(3)
    expected = items @ np.linalg.solve(gram, 5.0 * items[own].sum(axis=0))
    np.testing.assert_allclose(model.score(Interactions.from_lists([own]))[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [ImplicitALS, BPR])
def test_a_seed_gives_the_same_factors_and_another_seed_others(kind, checkerboard):
    train, _ = checkerboard
    users = np.arange(1, 5)
    first, again, other = (
        kind(factors=4, iterations=3, seed=seed).fit(train, ITEMS).score(train.select(users), users) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_bpr_needs_the_users_it_learned(checkerboard):
    model = BPR(factors=4, iterations=1).fit(checkerboard[0], ITEMS)
    with pytest.raises(ValueError, match=r"needs the 2 rows .* received none"):
        model.score(Interactions.empty(2))
    assert not model.score(Interactions.empty(1), [0]).any()  # row 0 took nothing, so nothing is known of it


def test_item_knn_equals_the_loop():
    rng = np.random.default_rng(7)
    taken = rng.random((30, 13)) < 0.3
    taken[:, 0] = False
    train = Interactions.from_pairs(*np.nonzero(taken), users=30)
    similarity = np.zeros((13, 13))
    for a in range(1, 13):
        for b in range(1, 13):
            if a != b:
                together = np.sum(taken[:, a] & taken[:, b])
                similarity[a, b] = together / (np.sqrt(taken[:, a].sum() * taken[:, b].sum()) + 2.0)
    for target in range(13):
        for other in np.argsort(-similarity[:, target], kind="stable")[4:]:
            similarity[other, target] = 0.0
    scores = ItemKNN(neighbours=4, shrinkage=2.0).fit(train, 12, block=5).score(train)
    np.testing.assert_allclose(scores, taken.astype(float) @ similarity, rtol=1e-5, atol=1e-6)


def test_similarities_of_a_large_catalogue_are_few_items_at_a_time(monkeypatch):
    import pipeline.retrieval.baselines as module

    train = Interactions.from_lists([np.flatnonzero(row) for row in np.random.default_rng(2).random((40, 13)) < 0.3])
    whole, shapes = ItemKNN(neighbours=4).fit(train, 12).score(train), []

    def watched(similarity, k):
        shapes.append(similarity.shape)
        return select_top_k(similarity, k)

    monkeypatch.setattr(module, "MOST_SIMILARITIES", 3 * 13 + 5)
    monkeypatch.setattr(module, "select_top_k", watched)
    np.testing.assert_array_equal(ItemKNN(neighbours=4).fit(train, 12).score(train), whole)
    assert shapes == [(3, 13)] * 4 + [(1, 13)]
    monkeypatch.setattr(module, "MOST_SIMILARITIES", 1)
    np.testing.assert_array_equal(ItemKNN(neighbours=4).fit(train, 12).score(train), whole)


def test_ease_solves_its_ridge_regression_with_a_zero_diagonal():
    """Column j of B is the ridge solution that predicts item j from the others: stationarity, not the closed form."""
    rng = np.random.default_rng(7)
    taken = (rng.random((50, 10)) < 0.4).astype(float)
    taken[:, [0, 6]] = 0.0  # row 0, and an item without events
    train = Interactions.from_pairs(*np.nonzero(taken), users=50)
    weights = EASE(regularisation=3.0).fit(train, 9).score(Interactions.from_lists([[item] for item in range(10)]))
    for target in range(1, 10):
        others = [item for item in range(1, 10) if item != target]
        known = taken[:, others]
        solution = np.linalg.solve(known.T @ known + 3.0 * np.eye(8), known.T @ taken[:, target])
        np.testing.assert_allclose(weights[others, target], solution, atol=1e-5)
        assert weights[target, target] == 0.0
    assert not weights[:, 6].any()


def test_ease_refuses_a_catalogue_too_large_to_invert(checkerboard):
    with pytest.raises(ValueError, match=r"at most 10 items .* received 40 .* use ItemKNN"):
        EASE(max_items=10).fit(checkerboard[0], ITEMS)


def test_item_outside_the_catalogue_is_refused():
    with pytest.raises(ValueError, match="items: rows must be below 3, received 7"):
        to_sparse(Interactions.from_lists([[7]]), 3)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (ItemKNN, "neighbours"),
        (ItemKNN, "shrinkage"),
        (EASE, "regularisation"),
        (ImplicitALS, "factors"),
        (BPR, "learning_rate"),
    ],
)
def test_impossible_settings_are_refused(kind, setting):
    with pytest.raises(ValueError, match=rf"{setting}.*must be.*received.*-1"):
        kind(**{setting: -1})
