"""The search tower: two parts in one dot product, training by contrast, and what is saved."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from towers.search import SearchConfig, SearchTask, SearchTower, load_search_tower, principal_directions

FEATURES, WIDTH, CONTENT = 12, 6, 5


def numpy(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def tower() -> SearchTower:
    rng = np.random.default_rng(0)
    made = SearchTower(SearchConfig(FEATURES, WIDTH, CONTENT, hidden=8, dropout=0.5))
    made.adapt(rng.normal(1, 1, (50, FEATURES)), rng.normal(-1, 1, (80, FEATURES)))
    return made


def test_the_score_is_behaviour_plus_balanced_content(tower):
    rng = np.random.default_rng(1)
    questions, texts = rng.normal(size=(3, FEATURES)).astype("f4"), rng.normal(size=(4, FEATURES)).astype("f4")
    embeddings, present = unit(rng.normal(size=(4, WIDTH))).astype("f4"), np.array([True, True, False, True])
    tower.balance.assign(2.5)
    scores = numpy(tower(questions)) @ numpy(tower.items(embeddings, texts, present)).T
    kernel, query_mean, item_mean = (numpy(value) for value in (tower.directions, tower.query_mean, tower.item_mean))
    content = unit((questions - query_mean) @ kernel) @ unit((texts - item_mean) @ kernel).T
    behaviour = numpy(tower.behaviour(tower.content(questions, query_mean))) @ embeddings.T
    np.testing.assert_allclose(scores, behaviour + 2.5 * content * present, atol=1e-5)
    np.testing.assert_allclose(scores[:, 2], behaviour[:, 2], atol=1e-5)


def test_both_parts_of_a_question_have_unit_length_and_dropout_is_for_training(tower):
    questions = np.random.default_rng(2).normal(size=(7, FEATURES)).astype("f4")
    vectors = numpy(tower(questions))
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :WIDTH], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, WIDTH:], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, numpy(tower(questions)))
    assert np.abs(numpy(tower(questions, training=True)) - vectors).max() > 1e-3


def test_training_finds_items_by_their_embeddings():
    """Items whose embeddings are a rotation of their texts: contrast has to find the rotation."""
    rng = np.random.default_rng(3)
    texts = rng.normal(size=(300, WIDTH)).astype("f4")
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    embeddings = unit(texts @ rotation).astype("f4")
    keras.utils.set_random_seed(0)
    tower = SearchTower(SearchConfig(WIDTH, WIDTH, WIDTH, hidden=8, dropout=0.0))
    tower.adapt(texts, texts)
    task = SearchTask(tower)
    task.compile(optimizer=keras.optimizers.Adam(0.02), jit_compile=False)
    batch = {"query": texts[:200], "item": embeddings[:200], "row": np.arange(200, dtype="int32")}
    losses = task.fit(batch, batch_size=50, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    asked = numpy(tower.behaviour(tower.content(texts[200:], tower.query_mean)))
    ranks = ((asked @ embeddings.T) > (asked * embeddings[200:]).sum(axis=1, keepdims=True)).sum(axis=1)
    assert np.mean(ranks < 10) > 0.9


def test_two_questions_for_one_item_are_no_negatives_of_each_other():
    tower = SearchTower(SearchConfig(FEATURES, WIDTH, CONTENT, hidden=8, dropout=0.0))
    vectors = np.random.default_rng(0).normal(size=(4, FEATURES)).astype("f4")
    tower.adapt(vectors, vectors)
    items = unit(np.random.default_rng(1).normal(size=(2, WIDTH))).astype("f4")
    task = SearchTask(tower)

    def loss(rows: list[int], query: np.ndarray) -> float:
        batch = {"query": query, "item": items[rows], "row": np.array(rows, "int32")}
        return float(task.compute_loss(x=batch, y_pred=task(batch)))

    assert loss([0, 0], vectors[:2]) == pytest.approx(0.0, abs=1e-6)
    scores = numpy(task({"query": vectors[:2]})) @ items.T * 10
    expected = np.mean([np.log(np.exp(scores[row]).sum()) - scores[row, row] for row in (0, 1)])
    assert loss([0, 1], vectors[:2]) == pytest.approx(expected, rel=1e-4)


def test_directions_are_orthonormal_and_ordered():
    vectors = np.random.default_rng(0).normal(size=(200, 6)) * [5, 1, 3, 0.5, 2, 4]
    kernel = principal_directions(vectors, 6)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)
    assert (np.diff(((vectors - vectors.mean(0)) @ kernel).var(axis=0)) < 0).all()
    few = principal_directions(vectors[:3], 8)
    assert few.shape == (6, 8) and (np.abs(few).sum(axis=0) > 0).sum() == 2


def test_saved_and_loaded_it_answers_the_same(tower, tmp_path):
    tower.balance.assign(3.0)
    tower.save_to(tmp_path)
    again = load_search_tower(tmp_path)
    questions = np.random.default_rng(2).normal(size=(7, FEATURES)).astype("f4")
    np.testing.assert_array_equal(numpy(tower(questions)), numpy(again(questions)))
    assert again.config == tower.config and float(again.balance) == 3.0
    (tmp_path / "search.json").unlink()
    with pytest.raises(FileNotFoundError, match="train-search"):
        load_search_tower(tmp_path)
