"""Indexes against a loop in NumPy, against an independent library, against themselves after a save, and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from serving.index.build import EXACT_BELOW, RecallBelowFloor, build_indexes, load_index
from serving.index.index import LOWEST, MAXIMUM_K, ExactIndex
from serving.index.measure import recall_at_k, search_in_blocks
from serving.index.partitioned_index import PartitionedIndex
from serving.index.scann_index import ScannIndex
from serving.saved_model import operations


def clustered(items: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit item vectors around a few centres, row 0 zeros, and queries near some of them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(8, items // 50), width))
    table = centres[rng.integers(0, len(centres), items)] + 0.5 * rng.normal(size=(items, width))
    queries = table[rng.integers(0, items, 200)] + 0.3 * rng.normal(size=(200, width))
    unit = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in (table, queries)]
    return np.concatenate([np.zeros((1, width), np.float32), unit[0]]), unit[1]


def loop(table: np.ndarray, queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition: sort what may be found by score, then by row."""
    rows, scores = np.zeros((len(queries), k), np.int32), np.full((len(queries), k), LOWEST, np.float32)
    for place, query in enumerate(queries):
        allowed = [row for row in range(1, len(table)) if row not in set(excluded[place].tolist())]
        best = sorted(allowed, key=lambda row: (-float(table[row] @ query), row))[:k]
        rows[place, : len(best)] = best
        scores[place, : len(best)] = [table[row] @ query for row in best]
    return rows, scores


@pytest.fixture(scope="module")
def small():
    table, queries = clustered(50, 8, seed=1)
    indexes = {"exact": ExactIndex(table), "partitioned": PartitionedIndex.build(table, leaves=5, vectors="float32")}
    return table, queries[:6], {**indexes, "scann": ScannIndex.build(table)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    table, queries = clustered(3_000, 16, seed=2)
    folder = tmp_path_factory.mktemp("index")
    return table, queries, folder, build_indexes(table, queries, folder, "scann", recall_target=0.995, repeats=20)


@pytest.mark.parametrize("kind", ["exact", "partitioned", "scann"])
@pytest.mark.parametrize(("k", "width"), [(1, 0), (7, 0), (7, 3), (50, 4), (80, 2), (0, 1)])
def test_search_is_the_loop(small, kind, k, width):
    table, queries, indexes = small
    excluded = np.random.default_rng(3).integers(-1, 60, (len(queries), width)).astype(np.int32)
    excluded[:, :1] = 0
    if width > 1:
        excluded[:, 1] = loop(table, queries, 1, excluded)[0][:, 0]
    rows, scores = (found.numpy() for found in indexes[kind].search(queries, k, excluded))
    expected_rows, expected_scores = loop(table, queries, k, excluded)
    assert rows.dtype == np.int32 and rows.shape == scores.shape == (len(queries), k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "partitioned", "scann"])
def test_everything_excluded_leaves_padding(small, kind):
    table, queries, indexes = small
    excluded = np.tile(np.arange(1, len(table), dtype=np.int32), (len(queries), 1))
    rows, scores = indexes[kind].search(queries, 5, excluded)
    assert not rows.numpy().any() and (scores.numpy() == LOWEST).all() and np.isfinite(scores.numpy()).all()


@pytest.mark.parametrize("kind", ["exact", "partitioned", "scann"])
def test_hostile_k_is_refused(small, kind):
    _, queries, indexes = small
    for k in (-1, MAXIMUM_K + 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="k: must lie between"):
            indexes[kind].search(queries, k, np.zeros((len(queries), 0), np.int32))


@pytest.mark.parametrize("make", [ExactIndex, PartitionedIndex.build, ScannIndex.build])
def test_negative_scores_come_before_padding_and_row_0(make):
    table = np.array([[9.0, 9.0], [-1.0, 0.0], [-2.0, 0.0]], np.float32)
    index = make(table)
    rows, scores = index.search([[1.0, 0.0]], 3, [[]])
    assert rows.numpy().tolist() == [[1, 2, 0]] and scores.numpy()[0, :2].tolist() == [-1.0, -2.0]
    np.testing.assert_array_equal(index.embeddings([[0, 2]]).numpy(), [[[0, 0], [-2, 0]]])


def test_exact_agrees_with_an_independent_library(built):
    from tensorflow_recommenders.layers.factorized_top_k import BruteForce

    table, queries, folder, _ = built
    reference = BruteForce(k=20)
    reference.index(tf.constant(table[1:]), tf.range(1, len(table)))
    rows, scores = load_index(folder, "exact").search(queries, 20, np.zeros((len(queries), 0), np.int32))
    true_scores, true_rows = reference(tf.constant(queries))
    np.testing.assert_array_equal(rows.numpy(), true_rows.numpy())
    np.testing.assert_allclose(scores.numpy(), true_scores.numpy(), rtol=1e-5, atol=1e-6)


def test_scann_finds_what_exact_finds(built):
    table, queries, folder, report = built
    exact, scann = load_index(folder, "exact"), load_index(folder, "scann")
    excluded = search_in_blocks(exact, queries, 30)[0]
    for barred in (None, excluded):
        true_rows, _ = search_in_blocks(exact, queries, 100, barred)
        rows, scores = search_in_blocks(scann, queries, 100, barred)
        overlap = np.mean([len(set(found) & set(true)) / 100 for found, true in zip(rows, true_rows, strict=True)])
        assert overlap >= 0.99
        assert (np.diff(scores, axis=1) <= 0).all() and (rows > 0).all() and all(len(set(line)) == 100 for line in rows)
        np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", table[rows], queries), atol=1e-5)
        if barred is not None:
            assert not any(set(found) & set(gone) for found, gone in zip(rows, barred, strict=True))
    assert report["recall@100_vs_exact"] >= 0.99
    assert 0 < report["leaves_to_search"] < report["leaves"]


def test_scann_fills_every_place_as_long_as_items_are_left(built):
    table, queries, folder, _ = built
    rows, _ = load_index(folder, "scann").search(queries[:3], len(table) + 10, np.array([[5], [6], [0]], np.int32))
    for line, gone in zip(rows.numpy(), ({5}, {6}, set()), strict=True):
        assert set(line[line > 0].tolist()) == set(range(1, len(table))) - gone
        assert not line[len(table) - 1 - len(gone) :].any()


def test_one_large_leaf_and_many_small_ones_still_fill_k():
    """Half of the items are one point, so that the leaves nearest to other queries hold too few."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(2_001, 8)).astype(np.float32)
    table[1:1_001] = [3, 0, 0, 0, 0, 0, 0, 0]
    index = ScannIndex.build(table, leaves_to_search=1)
    rows, _ = index.search(rng.normal(size=(20, 8)).astype(np.float32), 300, np.zeros((20, 0), np.int32))
    assert (rows.numpy() > 0).all()


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_saved_index_answers_the_same(built, kind):
    _, queries, folder, _ = built
    excluded = np.tile(np.array([[1, 2, 0]], np.int32), (20, 1))
    rows, scores = load_index(folder, kind).search(queries[:20], 40, excluded)
    loaded = tf.saved_model.load(str(folder / kind))
    inputs = {"queries": tf.constant(queries[:20]), "k": tf.constant(40), "excluded": tf.constant(excluded)}
    answer = loaded.signatures["search"](**inputs)
    np.testing.assert_array_equal(answer["rows"], rows)
    np.testing.assert_array_equal(answer["scores"], scores)
    single = load_index(folder, kind).search(queries[:1], 40, excluded[:1])
    np.testing.assert_array_equal(single[0][0], rows[0])


def test_exact_needs_no_operation_beyond_core(built):
    assert all(hasattr(tf.raw_ops, name) for name in operations(built[2] / "exact"))
    assert any(name.startswith("Scann>") for name in operations(built[2] / "scann"))


def test_same_table_same_bytes(built, tmp_path):
    table, _, folder, report = built
    ExactIndex(table).save(tmp_path / "exact")
    index = ScannIndex.build(table, leaves_to_search=report["leaves_to_search"], reorder=report["reorder"])
    index.save(tmp_path / "scann")
    for kind in ("exact", "scann"):
        files = sorted(path.relative_to(folder / kind) for path in (folder / kind).rglob("*") if path.is_file())
        assert len(files) >= 4
        for name in files:
            assert (folder / kind / name).read_bytes() == (tmp_path / kind / name).read_bytes(), (kind, name)


def test_report(built):
    _, _, folder, report = built
    assert json.loads((folder / "report.json").read_text()) == report
    assert report["kind"] == "scann" and report["exact"]["recall@100_vs_exact"] == 1.0
    for figures in (report, *report["trade_off"]):
        assert figures["p99_ms"] >= figures["p50_ms"] > 0 and figures["bytes"] > 3_000 * 16 * 4
    assert [row["kind"] for row in report["trade_off"]][:2] == ["exact", "partitioned"]  # beside whatever answers
    for name in ("partitioned", "scann"):  # one setting, one measurement
        rows = {row["setting"]: row for row in report["trade_off"] if row["kind"] == name}
        effort = report[name]["budget"] if name == "partitioned" else report[name]["leaves_to_search"]
        (chosen,) = [row for setting, row in rows.items() if setting.startswith(f"{effort} of ")]
        assert (report[name]["p50_ms"], report[name]["p99_ms"]) == (chosen["p50_ms"], chosen["p99_ms"])
    recalls = [row["recall@100_vs_exact"] for row in report["trade_off"] if row["kind"] == "scann"]
    assert len(recalls) >= 3 and recalls == sorted(recalls)


def test_an_index_without_leaves_looks_at_all_items(tmp_path):
    table, queries = clustered(300, 8, seed=4)
    report = build_indexes(table, queries[:10], tmp_path, repeats=5)
    (row,) = [row for row in report["trade_off"] if row["kind"] == "scann"]
    assert row["setting"] == "all items" and row["p50_ms"] == report["scann"]["p50_ms"]


def test_recall_below_floor_is_refused_with_figures(tmp_path):
    table, queries = clustered(1_200, 8, seed=4)
    with pytest.raises(RecallBelowFloor, match=r"at least 1\.01 of the exact top 100, it found (0\.9|1\.0)"):
        build_indexes(table, queries, tmp_path / "out", "scann", recall_floor=1.01, repeats=5)
    assert list((tmp_path / "out").iterdir()) == []


def test_auto_takes_exact_search_of_a_small_catalogue(tmp_path):
    table, queries = clustered(300, 8, seed=4)
    report = build_indexes(table, queries[:10], tmp_path, scann=False, repeats=5)
    assert report["kind"] == report["stock_kind"] == "exact" == load_index(tmp_path).kind
    assert report["reason"] == f"300 items are fewer than {EXACT_BELOW:,}" and "partitioned" not in report


def test_recall_counts_equal_items_as_right_and_repeats_once():
    table = np.array([[0.0], [2.0], [2.0], [1.0]])
    truth = np.array([[2.0, 2.0]])
    query = np.array([[1.0]])
    assert recall_at_k(np.array([[2, 1]]), truth, query, table) == 1.0
    assert recall_at_k(np.array([[2, 2]]), truth, query, table) == 0.5
    assert recall_at_k(np.array([[0, 3]]), truth, query, table) == 0.0


def test_bad_inputs_are_named(tmp_path):
    with pytest.raises(ValueError, match="item_embeddings: values must be finite"):
        ExactIndex(np.array([[0.0], [np.nan]], np.float32))
    with pytest.raises(ValueError, match="item_embeddings: need"):
        ScannIndex.build(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="queries: need"):
        build_indexes(np.ones((3, 4), np.float32), np.ones((2, 5), np.float32), tmp_path)
    with pytest.raises(ValueError, match="kind: must be"):
        build_indexes(np.ones((3, 4), np.float32), np.ones((2, 4), np.float32), tmp_path, "annoy")
    with pytest.raises(FileNotFoundError, match="holds no exact index"):
        load_index(tmp_path, "exact")
