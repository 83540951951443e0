"""Exports in half precision and eight bits: exactly the models whose weights were rounded so, and that much smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ranking.array_ops import numpy_ops
from ranking.explain import explain
from ranking.pruning import prune_ranker
from ranking.stored_rows import restore_rows, store_rows
from serving.export.ranking import RankingModule
from serving.export.recommend import RecommendModule, RecommendSettings
from serving.export.release import export_release
from serving.export.retrieval import RetrievalModule
from serving.graphs.policy_tables import PolicyTables
from serving.index import stored_scores
from serving.index.index import ExactIndex
from serving.saved_model import operations
from tests.serving.random_world import WIDTH, WORDS, World, random_world

USERS, ITEMS = 20, 60
REDUCED = ("float16", "int8")


def rounded(table: Any, precision: Any) -> np.ndarray:
    return restore_rows(store_rows(np.asarray(table), precision), ops=numpy_ops)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return random_world(tmp_path_factory.mktemp("precision"), USERS, ITEMS)


def round_weights(model: Any, precision: Any, tables: list) -> list[np.ndarray]:
    """Rounds a model's weights as an export keeps them; returns what they were."""
    before, by_row = [np.asarray(weight) for weight in model.weights], {id(table) for table in tables}
    for weight, value in zip(model.weights, before, strict=True):
        if value.dtype == np.float32 and value.ndim >= 2:
            weight.assign(rounded(value, precision if id(weight) in by_row else "float16"))
    return before


def answers(module: Any, users: list[str], recent: list[list[str]]) -> dict[str, np.ndarray]:
    """Retrieval's answer for known, unknown and fresh users."""
    nothing = tf.zeros((len(users), 0), tf.string)
    found = module.retrieve(tf.constant(users), tf.constant(recent), nothing, tf.constant(10))
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("precision", REDUCED)
def test_retrieval_is_that_of_rounded_tables(world: World, precision: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored_scores, "BLOCK_VALUES", 7 * (WIDTH + 24))  # many blocks, and a short last one
    ensemble, tower = world.ensemble, world.ensemble.user_tower
    index = ExactIndex(ensemble.items, precision)
    stored = RetrievalModule(world.tables, tower, index, ensemble.linear.history, precision=precision)
    users, recent = ["u1", "who?", "u7"], [["", ""], ["i9", "i4"], ["i3", ""]]
    found = answers(stored, users, recent)
    before = round_weights(tower, "float16", [])
    try:
        items, history = rounded(ensemble.items, precision), rounded(ensemble.linear.history, precision)
        plain = RetrievalModule(world.tables, tower, ExactIndex(items), history)
        expected = answers(plain, users, recent)
    finally:
        for weight, value in zip(tower.weights, before, strict=True):
            weight.assign(value)
    for name in ("query", "scores"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert [set(line) for line in found["item_ids"].tolist()] == [set(line) for line in expected["item_ids"].tolist()]
    exact = answers(RetrievalModule(world.tables, tower, ExactIndex(ensemble.items), ensemble.linear.history), users, recent)
    assert 0 < np.abs(found["scores"] - exact["scores"]).max() < 0.05


@pytest.mark.parametrize("precision", REDUCED)
def test_ranking_and_its_reasons_are_those_of_rounded_weights(world: World, precision: Any):
    form = world.form
    users, times = np.array([4, 0, 7], np.int32), np.array([1_700_000_000, 0, 1_700_000_000], np.int64)
    history = world.tables.history[users]
    candidates = np.array([[1, 2, 3, 0], [9, 0, 5, 60], [3, 2, 1, 7]], np.int32)
    scores = np.random.default_rng(1).normal(size=candidates.shape).astype(np.float32)
    stored = RankingModule(world.tables, form, precision).ranker
    given = [tf.constant(value) for value in (users, history, candidates, scores, times)]
    ranks = tf.constant(np.tile(np.arange(1, 5, dtype=np.float32), (3, 1)))
    found, reasons = stored(*given), stored.run(explain, *given[:4], ranks, given[4])
    before = round_weights(form, precision, form.row_tables())
    try:
        expected = form(*given)
        expected_reasons = explain(form, users, history, candidates, scores, ranks, times)
    finally:
        for weight, value in zip(form.weights, before, strict=True):
            weight.assign(value)
    for head in expected:
        np.testing.assert_allclose(found[head], expected[head], atol=2e-6, err_msg=head)
    for name in ("score", "contributions", "cosines"):
        np.testing.assert_allclose(reasons[name], expected_reasons[name], atol=2e-5, err_msg=name)
    plain = form(*given)
    assert 0 < np.abs(np.asarray(found["score"]) - np.asarray(plain["score"])).max() < 0.05


def test_every_large_table_of_the_ranker_is_read_by_row(world: World):
    """A matrix with a line an item or a user must be in `row_tables`: cast whole, it would cost every request the whole
    table."""
    tables = {id(table) for table in world.form.row_tables()}
    for weight in world.form.weights:
        floats = keras.backend.standardize_dtype(weight.dtype) == "float32"
        if floats and len(weight.shape) > 1 and weight.shape[0] in (USERS + 1, ITEMS + 1):
            assert id(weight) in tables, weight.path


@pytest.mark.parametrize("precision", REDUCED)
def test_one_call_answers_as_two_and_its_score_is_what_is_explained(world: World, precision: Any):
    """`recommend` holds the same tables: its page is what retrieval and ranking of that precision make together, in a
    context too, and what `explain` tells apart is the very score that it shows."""
    ensemble, index = world.ensemble, ExactIndex(world.ensemble.items, precision)
    tower, history = ensemble.user_tower, ensemble.linear.history
    facts = PolicyTables(counts=np.ones(ITEMS + 1, np.int64), released=np.zeros(ITEMS + 1, np.int64), context=WORDS)
    settings = RecommendSettings(facts, candidates=20, k=5)
    module = RecommendModule(world.tables, tower, index, world.form, settings, history, precision)
    users, times = tf.constant(["u1", "who?"]), tf.constant([1_700_000_000, 0], tf.int64)
    recent, nothing = tf.constant([["", ""], ["i9", "i4"]]), tf.zeros((2, 0), tf.string)
    context = tf.constant([["device=phone"], ["device=tv"]])
    no_names, no_values, seed = tf.zeros((0,), tf.string), tf.zeros((0,)), tf.zeros((2,), tf.int64)
    page = module.recommend(
        users, recent, context, tf.constant(5), tf.constant(20), nothing, nothing, no_names, no_values, times, seed
    )
    retrieval = RetrievalModule(world.tables, tower, index, history, precision=precision)
    found = retrieval.retrieve(users, recent, nothing, tf.constant(20))
    ranking = RankingModule(world.tables, world.form, precision, WORDS)
    ranked = ranking.rank(users, recent, found["item_ids"], found["scores"], times, context)["score"].numpy()
    best = np.argsort(-ranked, axis=1, kind="stable")[:, :5]
    np.testing.assert_allclose(page["scores"], np.take_along_axis(ranked, best, axis=1), atol=1e-6)
    assert page["item_ids"].numpy().tolist() == np.take_along_axis(found["item_ids"].numpy(), best, axis=1).tolist()
    shown = (page["item_ids"], page["retrieval_scores"], tf.cast(page["retrieval_ranks"], tf.float32), times)
    reasons = ranking.explain(users, recent, *shown, context)
    np.testing.assert_allclose(reasons["score"], page["scores"], atol=1e-6)
    elsewhere = ranking.explain(users, recent, *shown, nothing)
    assert np.abs(elsewhere["score"] - page["scores"]).min() > 1e-6
    assert np.abs(elsewhere["contributions"] - reasons["contributions"]).max(axis=2).min() > 1e-6


def test_files_are_smaller_and_of_core_operations(world: World, tmp_path: Path):
    """A stored model answers the same from its files, whose variables have the bytes that the form says."""
    sizes = {}
    for precision in ("float32", *REDUCED):
        index = ExactIndex(world.ensemble.items, precision)
        arguments = (world.tables, world.ensemble.user_tower, index, world.ensemble.linear.history)
        module = RetrievalModule(*arguments, precision=precision)
        folder = tmp_path / precision
        module.save(folder)
        assert all(hasattr(tf.raw_ops, name) for name in operations(folder))
        sizes[precision] = sum(path.stat().st_size for path in folder.rglob("variables.data*"))
        loaded = tf.saved_model.load(str(folder)).signatures["serving_default"]
        given = {"user_id": ["u3"], "recent_item_ids": [["i5"]], "exclude_item_ids": [["i6"]], "k": 10}
        given["profile"] = np.empty((1, 0), str)
        found = loaded(**{name: tf.constant(value) for name, value in given.items()})
        expected = answers(module, ["u3"], [["i5"]])
        np.testing.assert_allclose(found["query"], expected["query"], rtol=1e-5, atol=1e-6)
    rows, width, linear = ITEMS + 1, WIDTH + 24, 24
    floats = sum(np.asarray(weight).size for weight in world.ensemble.user_tower.weights if len(weight.shape) > 1)
    saved = {
        "float16": 2 * rows * (width + linear) + 2 * floats,
        "int8": (4 * width - (width + 2)) * rows + (4 * linear - (linear + 2)) * rows + 2 * floats,
    }
    for precision, expected_saving in saved.items():
        assert sizes["float32"] - sizes[precision] == pytest.approx(expected_saving, abs=64)


def test_a_release_of_a_pruned_ranker_is_smaller_and_answers_as_it_does_in_python(world: World, tmp_path: Path):
    ensemble, tables = world.ensemble, world.tables
    release = export_release(
        tmp_path, 1, tables=tables, user_tower=ensemble.user_tower, index=ExactIndex(ensemble.items), approximate_index=None,
        ranker=world.form, linear_history=ensemble.linear.history, prune=0.5, k=5,
    )  # fmt: skip
    pruned = prune_ranker(world.form, 0.5, tables.history)
    loaded = tf.saved_model.load(str(release.folder / "ranking" / "1")).signatures["serving_default"]
    given = {
        "user_id": ["u4"], "recent_item_ids": np.empty((1, 0), str), "candidate_ids": [["i1", "i2", "i3"]],
        "retrieval_scores": [[0.5, 0.1, -1.0]], "timestamp": np.array([1_700_000_000]), "context": np.empty((1, 0), str),
        "profile": np.empty((1, 0), str),
    }  # fmt: skip
    answer = loaded(**{name: tf.constant(value) for name, value in given.items()})
    rows, scores = np.array([[1, 2, 3]], np.int32), np.array([[0.5, 0.1, -1.0]], np.float32)
    expected = pruned(np.array([4], np.int32), tables.history[[4]], rows, scores, np.array([1_700_000_000], np.int64))
    np.testing.assert_allclose(answer["score"], expected["score"], atol=1e-6)
    whole = RankingModule(tables, world.form)
    count = lambda variables: sum(int(np.prod(shape)) for shape in variables)  # noqa: E731
    saved = count(shape for name, shape in tf.train.list_variables(str(release.folder / "ranking/1/variables/variables"))
                  if name.startswith("ranker"))  # fmt: skip
    assert saved == sum(np.asarray(weight).size for weight in pruned.weights)
    assert saved < count(value.numpy().shape for value in whole.ranker.values)


def test_an_index_in_eight_bits_restores_what_it_was_made_of(tmp_path: Path):
    table = np.random.default_rng(2).normal(size=(41, 12)).astype(np.float32)
    index = ExactIndex(table, "int8")
    queries, excluded = np.random.default_rng(3).normal(size=(3, 12)).astype(np.float32), [[7, 0], [0, 0], [1, 40]]
    rows, scores = index.search(queries, 41, excluded)
    expected = queries @ rounded(table, "int8").T
    for line in range(3):
        hidden = {0, *excluded[line]}
        wanted = [row for row in np.argsort(-expected[line], kind="stable").tolist() if row not in hidden]
        assert rows[line].numpy().tolist() == wanted + [0] * len(hidden)
        np.testing.assert_allclose(scores[line, : len(wanted)], expected[line, wanted], rtol=1e-5)
    np.testing.assert_array_equal(index.embeddings([[3, 0]])[0, 1], np.zeros(12))
    index.save(tmp_path / "index")
    restored = ExactIndex.restore(tmp_path / "index")
    np.testing.assert_allclose(restored.embeddings([3])[0], rounded(table, "int8")[3], rtol=1e-6)
    assert restored.item_rows == 41
