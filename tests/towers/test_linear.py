"""Linear towers: scores against loops, joining and compressing against the matrices they stand for."""

import numpy as np
import pytest
import scipy.sparse

from towers.closed_form import ClosedFormSettings, co_occurrence, content_similarity, ease, spread_rows, truncate
from towers.linear import LinearTower, compress, join, query_products, score_scale, whiten
from towers.spectral import content_graph, spectral_tower, spectrum


def random_tower(seed: int, rows: int = 12, width: int = 4) -> LinearTower:
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(2, rows, width)).astype(np.float32)
    tables[:, 0] = 0.0
    return LinearTower(tables[0], tables[1])


def random_histories(seed: int, users: int = 30, rows: int = 12) -> scipy.sparse.csr_array:
    taken = (np.random.default_rng(seed).random((users, rows)) < 0.3).astype(np.float32)
    taken[:, 0] = 0.0
    return scipy.sparse.csr_array(taken)


def scores(tower: LinearTower, taken) -> np.ndarray:
    return tower.queries(taken) @ tower.items.T


def test_a_score_is_the_sum_over_the_history_written_as_a_loop():
    tower, taken = random_tower(0), random_histories(1).toarray()
    found = scores(tower, scipy.sparse.csr_array(taken))
    for user in range(3):
        for item in range(12):
            expected = sum(
                float(np.dot(tower.history[other], tower.items[item])) for other in np.flatnonzero(taken[user])
            )
            assert found[user, item] == pytest.approx(expected, abs=1e-4)


def test_joined_towers_score_the_weighted_sum():
    first, second, taken = random_tower(0), random_tower(1, width=3), random_histories(2)
    joined = join([first, second], [0.5, 2.0])
    expected = 0.5 * scores(first, taken) + 2.0 * scores(second, taken)
    np.testing.assert_allclose(scores(joined, taken), expected, atol=1e-4)


def test_compressing_keeps_what_the_users_queries_can_see():
    narrow, taken = random_tower(0, width=3), random_histories(3)
    # Three directions written in nine columns: nothing is lost by going back to three.
    mixing = np.random.default_rng(4).normal(size=(3, 9))
    wide = LinearTower(
        (narrow.history @ mixing).astype(np.float32), (narrow.items @ np.linalg.pinv(mixing).T).astype(np.float32)
    )
    compressed = compress(wide, taken, 3)
    assert compressed.width == 3
    np.testing.assert_allclose(scores(compressed, taken), scores(narrow, taken), atol=1e-3)


def test_compressing_looks_at_users_block_by_block(monkeypatch):
    tower, taken = random_tower(7, width=6), random_histories(8, users=50)
    whole = compress(tower, taken, 3)
    moments = np.zeros((6, 6))
    for user in taken.toarray():
        query = user @ tower.history.astype(np.float64)
        moments += np.outer(query, query) / max(user.sum(), 1)
    np.testing.assert_allclose(query_products(tower, taken), moments, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("towers.linear.USERS_AT_A_TIME", 7)
    np.testing.assert_allclose(scores(compress(tower, taken, 3), taken), scores(whole, taken), atol=1e-5)


def test_compressing_is_at_least_as_near_as_cutting_columns_of_the_singular_value_decomposition():
    tower, taken = random_tower(5, width=8), random_histories(6, users=200)
    weights = 1.0 / np.sqrt(np.maximum(taken.sum(axis=1), 1.0))[:, None]
    exact = weights * scores(tower, taken)

    def error(other: LinearTower) -> float:
        return float(((weights * scores(other, taken) - exact) ** 2).sum())

    left, strengths, right = np.linalg.svd(tower.history @ tower.items.T)
    plain = LinearTower(
        (left[:, :4] * strengths[:4]).astype(np.float32), np.ascontiguousarray(right[:4].T).astype(np.float32)
    )
    best = np.linalg.svd(exact, compute_uv=False)[4:]
    assert error(compress(tower, taken, 4)) <= error(plain) + 1e-6
    assert error(compress(tower, taken, 4)) == pytest.approx(float((best**2).sum()), rel=1e-3)


def test_whitening_keeps_scores_and_makes_a_unit_query_spread_by_one():
    tower, taken = random_tower(7, rows=300), random_histories(8, rows=300)
    white = whiten(tower)
    np.testing.assert_allclose(scores(white, taken), scores(tower, taken), rtol=1e-3, atol=1e-3)
    queries = white.queries(taken)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_allclose((queries @ white.items[1:].T).std(axis=1), 1.0, atol=1e-3)


def test_the_scale_is_the_mean_deviation_of_the_scores():
    tower, taken = random_tower(9), random_histories(10)
    assert score_scale(tower, taken) == pytest.approx(scores(tower, taken)[:, 1:].std(axis=1).mean(), rel=1e-4)


def test_a_tower_survives_a_file(tmp_path):
    tower = random_tower(11)
    tower.save(tmp_path)
    again = LinearTower.load(tmp_path)
    np.testing.assert_array_equal(again.history, tower.history)
    np.testing.assert_array_equal(again.items, tower.items)


def test_row_zero_and_numbers_that_are_not_finite_are_refused():
    table = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="row 0"):
        LinearTower(table, table)
    broken = np.zeros((3, 2), np.float32)
    broken[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        LinearTower(broken, np.zeros((3, 2), np.float32))


def loop_ease(taken: np.ndarray, settings: ClosedFormSettings, content: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The formula, item by item: each column is a ridge regression on all other items."""
    users, items = taken.shape
    counts = taken.sum(axis=1)
    weight = (counts / counts[counts > 0].mean()).clip(1e-3) ** -settings.user_power
    gram = np.zeros((items, items))
    for user in range(users):
        gram += weight[user] * np.outer(taken[user], taken[user])
    gram = gram + np.diag(gram).mean() * (settings.content * content + settings.columns * columns)
    ridge = settings.l2 + settings.dropout / (1 - settings.dropout) * np.diag(gram)
    result = np.zeros((items, items))
    for item in range(items):
        others = [other for other in range(items) if other != item]
        block = gram[np.ix_(others, others)] + np.diag(ridge[others])
        result[others, item] = np.linalg.solve(block, gram[others, item])
    return result


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("content", "columns"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.1)])
def test_ease_is_a_ridge_regression_of_every_item_on_the_others(content, columns, exact):
    taken = random_histories(12, users=60).toarray()[:, 1:]
    features = {"image": (np.random.default_rng(13).normal(size=(12, 5)), np.arange(12) > 2)}
    similarity = content_similarity(features, np.arange(1, 12))
    labels = content_similarity({"tags": (np.eye(3)[np.arange(12) % 3], np.arange(12) > 0)}, np.arange(1, 12))
    settings = ClosedFormSettings(l2=3.0, dropout=0.2, user_power=0.5, content=content, columns=columns)
    gram = co_occurrence(scipy.sparse.csr_array(taken), 0.5)
    found = ease(gram, settings, similarity, labels, exact=exact)
    np.testing.assert_allclose(found, loop_ease(taken, settings, similarity, labels), atol=1e-4)
    assert not np.diag(found).any()


def test_absent_content_is_similar_to_nothing():
    features = {"image": (np.ones((4, 2)) * [[0], [1], [2], [3]], np.array([False, True, True, False]))}
    similarity = content_similarity(features, np.arange(1, 4))
    assert not similarity[2].any() and not similarity[:, 2].any()
    assert similarity[0, 1] == pytest.approx(-1.0, abs=1e-3)


def test_truncation_at_full_rank_changes_nothing_and_below_it_is_the_best_of_its_rank():
    taken = random_histories(14, users=100, rows=20)[:, 1:]
    gram = co_occurrence(taken, 0.0)
    weights = ease(gram, ClosedFormSettings(l2=5.0, dropout=0.0))
    history, items = truncate(weights, gram, 19)
    np.testing.assert_allclose(history @ items.T, weights, atol=1e-4)
    history, items = truncate(weights, gram, 6)
    scored = taken.toarray() @ weights
    error = ((taken.toarray() @ history @ items.T - scored) ** 2).sum()
    assert error == pytest.approx((np.linalg.svd(scored, compute_uv=False)[6:] ** 2).sum(), rel=1e-2)


def test_rows_that_take_no_part_are_zero():
    tower = spread_rows(np.ones((2, 3)), np.ones((2, 3)), np.array([1, 4]), 6)
    assert tower.items.any(axis=1).tolist() == [False, True, False, False, True, False]


def test_spectral_vectors_are_those_of_the_matrix_written_out():
    taken = random_histories(15, users=40)
    table = np.random.default_rng(16).normal(size=(12, 3))
    present = np.arange(12) > 0
    values, vectors = spectrum(taken, {"image": (table, present)}, content=0.2, width=5)
    dense = taken.toarray()
    users, items = (np.maximum(dense.sum(axis=axis), 1.0) for axis in (1, 0))
    normal = dense / np.sqrt(users)[:, None] / np.sqrt(items)
    matrix = 0.8 * normal.T @ normal + 0.2 * content_graph(table, present).toarray()
    np.testing.assert_allclose(values, np.sort(np.linalg.eigvalsh(matrix))[::-1][:5], atol=1e-3)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-2)


def test_content_edges_join_neighbours_both_ways_and_leave_absent_items_alone():
    table = np.array([[0, 0], [1, 0], [1, 0.1], [-1, 0], [-1, -0.1], [5, 5]], float)
    graph = content_graph(table, np.array([False, True, True, True, True, False]), neighbours=1).toarray()
    assert (graph > 0).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_spectral_tower_finds_the_block_that_a_history_lies_in():
    dense = np.zeros((40, 9), np.float32)
    dense[:20, 1:5] = dense[20:, 5:9] = 1.0
    values, vectors = spectrum(scipy.sparse.csr_array(dense), {}, content=0.0, width=4)
    tower = spectral_tower(values, vectors, dense.sum(axis=0), diffusion=1.0, width=2)
    history = np.zeros((1, 9), np.float32)
    history[0, 1] = 1.0
    found = scores(tower, scipy.sparse.csr_array(history))[0]
    assert found[2:5].min() > found[5:].max() + 0.1
