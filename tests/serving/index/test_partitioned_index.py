"""The partitioned index: its layout, its scan against a loop in NumPy, its recall, and every way out of too small a scan."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from serving.index.build import RecallBelowFloor, build_indexes, load_index
from serving.index.index import LOWEST, ExactIndex
from serving.index.measure import search_in_blocks
from serving.index.partitioned_index import PartitionedIndex
from serving.index.partitioned_layout import BLOCK_ROWS, lay_out, nearest_leaves, train_leaves
from serving.saved_model import operations
from tests.serving.index.test_index import clustered

ITEMS, WIDTH, K, BUDGET = 12_000, 16, 60, 40


@pytest.fixture(scope="module")
def world():
    table, queries = clustered(ITEMS, WIDTH, seed=6)
    index = PartitionedIndex.build(table, budget=BUDGET, measured_k=K, vectors="float32")
    return table, queries, index, ExactIndex(table)


def scanned_rows(index: PartitionedIndex, query: np.ndarray, budget: int) -> list[int]:
    """The rows of the first blocks of the leaves in the order of their scores, by the definition."""
    arrays = {name: value.numpy() for name, value in index.tensors.items()}
    scores = arrays["router"] @ query + np.linalg.norm(query) * arrays["reach"]
    blocks = [
        block
        for leaf in np.argsort(-scores, kind="stable")
        for block in range(arrays["first_blocks"][leaf], arrays["first_blocks"][leaf + 1])
    ][:budget]
    starts, sizes = arrays["block_starts"], arrays["block_sizes"]
    return [row for block in blocks for row in arrays["rows"][starts[block] : starts[block] + sizes[block]].tolist()]


def recall(rows: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(found) & set(best)) / len(best) for found, best in zip(rows, true, strict=True)]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=400), st.integers(0, 2**32 - 1))
def test_layout_holds_every_row_once_beside_its_leaf(nearest, seed):
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(len(nearest) + 1, 5)) * [0, 1, 10, 1e-3, 1]).astype(np.float32)
    arrays = lay_out(table, np.array(nearest, np.int32), "float32")
    rows, starts, sizes, first = (arrays[name] for name in ("rows", "block_starts", "block_sizes", "first_blocks"))
    held = [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    np.testing.assert_array_equal(np.concatenate([[0], *held]), rows)
    assert sorted(rows) == list(range(len(table))) and sizes.min() >= 1 and sizes.max() <= BLOCK_ROWS
    np.testing.assert_array_equal(arrays["vectors"][1:], table[rows[1:]])
    codes = arrays["codes"].reshape(-1, BLOCK_ROWS, 5) * arrays["steps"]
    for block, members in enumerate(held):
        np.testing.assert_array_equal(arrays["row_slots"][members], block * BLOCK_ROWS + np.arange(len(members)))
        assert (np.abs(codes[block, : len(members)] - table[members]) <= 0.501 * arrays["steps"]).all()
        assert not codes[block, len(members) :].any()
    for place, leaf in enumerate(sorted(set(nearest))):
        blocks = slice(first[place], first[place + 1])
        members = np.flatnonzero(np.array(nearest) == leaf) + 1
        assert sorted(np.concatenate(held[blocks])) == members.tolist()
        assert (arrays["block_leaves"][blocks] == place).all()
        np.testing.assert_allclose(arrays["router"][place], table[members].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_leaves_are_the_nearest_centres_and_the_same_every_time():
    table, _ = clustered(3_000, 8, seed=1)
    centres = train_leaves(table[1:], 20, seed=3)
    np.testing.assert_array_equal(centres, train_leaves(table[1:], 20, seed=3))
    assert not np.array_equal(centres, train_leaves(table[1:], 20, seed=4))
    distances = np.square(table[1:, None] - centres[None]).sum(axis=2)
    nearest = nearest_leaves(table[1:], centres)
    np.testing.assert_allclose(distances[np.arange(3_000), nearest], distances.min(axis=1), atol=1e-5)


@pytest.mark.parametrize("width", [0, 30])
def test_search_is_the_best_of_the_rows_that_the_budget_reaches(world, width):
    table, queries, index, _ = world
    for query in queries[:20]:
        excluded = np.array(scanned_rows(index, query, BUDGET)[:width] + [0] * 3, np.int32)
        # Excluded rows among the scanned ones are made up for in proportion.
        reached = scanned_rows(index, query, int(np.ceil(BUDGET * (K + width) / K)))
        allowed = np.array(sorted(set(reached) - set(excluded.tolist())))
        expected = allowed[np.argsort(-(table[allowed] @ query), kind="stable")[:K]]
        rows, scores = (found.numpy()[0] for found in index.search(query[None], K, excluded[None]))
        assert len(set(rows.tolist()) & set(expected.tolist())) >= K - 1  # eight bits may swap one at the border
        np.testing.assert_allclose(scores, table[rows] @ query, rtol=1e-5, atol=1e-6)
        assert (np.diff(scores) <= 0).all() and not set(rows) & set(excluded)


def test_recall_rises_with_the_budget_and_the_rest_of_the_catalogue_is_not_read(world):
    table, queries, index, exact = world
    true, _ = search_in_blocks(exact, queries, K)
    reached = []
    for budget in (20, 40, 90):
        index.budget.assign(budget)
        reached.append(recall(search_in_blocks(index, queries, K)[0], true))
    index.budget.assign(BUDGET)
    assert reached == sorted(reached) and reached[0] < reached[2] > 0.98
    farthest = table[1:] @ queries[0]
    assert index.search(queries[:1], K, [[]])[0].numpy().min() > 0 and len(scanned_rows(index, queries[0], 40)) < ITEMS / 4
    assert farthest[scanned_rows(index, queries[0], 40)[0] - 1] > np.median(farthest)


def test_a_batch_is_its_single_queries_whatever_is_excluded_beside_them(world):
    _, queries, index, _ = world
    rng = np.random.default_rng(0)
    excluded = rng.integers(-5, ITEMS + 50, (33, 9)).astype(np.int32)
    excluded[::3] = 0
    rows, scores = (found.numpy() for found in index.search(queries[:33], K, excluded))
    for place in range(33):
        line = excluded[place : place + 1]
        single = index.search(queries[place : place + 1], K, line[:, :0] if place % 3 == 0 else line)
        np.testing.assert_array_equal(single[0][0], rows[place])
        np.testing.assert_array_equal(single[1][0], scores[place])
        assert not set(rows[place]) & set(excluded[place].tolist())


def test_half_precision_moves_scores_by_its_rounding_alone(world):
    table, queries, index, _ = world
    half = PartitionedIndex.build(table, budget=BUDGET, measured_k=K)
    rows, scores = half.search(queries[:30], K, np.zeros((30, 0), np.int32))
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", table[rows], queries[:30]), atol=2**-11)
    np.testing.assert_array_equal(half.embeddings([[0, 7]]), [[np.zeros(WIDTH), table[7].astype(np.float16)]])
    assert recall(rows.numpy(), index.search(queries[:30], K, np.zeros((30, 0), np.int32))[0].numpy()) > 0.99


def test_requests_that_a_scan_cannot_answer_are_answered_exactly(world):
    _, queries, index, exact = world
    everything_near = np.array([scanned_rows(index, queries[0], 90)], np.int32)
    for k, excluded in ((ITEMS // 2, everything_near[:, :5]), (ITEMS + 5, everything_near[:, :0]), (K, everything_near)):
        rows, scores = index.search(queries[:1], k, excluded)
        true_rows, true_scores = exact.search(queries[:1], k, excluded)
        assert (rows.numpy() != true_rows.numpy()).mean() < 1e-3  # equal scores may come in another order
        np.testing.assert_allclose(scores, true_scores, rtol=1e-5, atol=1e-6)
    rest = np.setdiff1d(np.arange(1, ITEMS + 1), [11, 5_000])[None].astype(np.int32)
    rows, scores = index.search(queries[:2], 4, np.repeat(rest, 2, axis=0))
    assert [set(line) for line in rows.numpy().tolist()] == [{11, 5_000, 0}] * 2 and (scores.numpy()[:, 2:] == LOWEST).all()


def test_equal_items_empty_items_and_queries_of_nothing(world):
    rng = np.random.default_rng(5)
    table = rng.normal(size=(4_001, 8)).astype(np.float32)
    table[1:2_001] = [3, 0, 0, 0, 0, 0, 0, 0]
    table[3_000] = 0
    index = PartitionedIndex.build(table, leaves=40, budget=16, measured_k=20)
    queries = np.concatenate([np.zeros((1, 8)), rng.normal(size=(9, 8)), [[1, 0, 0, 0, 0, 0, 0, 0]]]).astype(np.float32)
    rows, scores = (found.numpy() for found in index.search(queries, 20, np.zeros((11, 0), np.int32)))
    assert (rows > 0).all() and np.isfinite(scores).all() and (scores > LOWEST).all()
    assert all(len(set(line)) == 20 for line in rows.tolist()) and set(rows[10]) <= set(range(1, 4_001))
    assert index.search(np.zeros((0, 8), np.float32), 5, np.zeros((0, 0), np.int32))[0].shape == (0, 5)


def test_vectors_of_any_length_are_found_by_inner_product(world):
    table, queries, _, _ = world
    rng = np.random.default_rng(8)
    table = table * np.exp(0.4 * rng.normal(size=(len(table), 1))).astype(np.float32)
    queries = queries * rng.uniform(0.01, 100, (len(queries), 1)).astype(np.float32)
    index = PartitionedIndex.build(table, budget=60, measured_k=K)
    true, _ = search_in_blocks(ExactIndex(table), queries, K)
    assert recall(search_in_blocks(index, queries, K)[0], true) > 0.93


def test_saved_it_answers_the_same_with_core_operations_and_nothing_compiled(world, tmp_path):
    _, queries, index, _ = world
    index.save(tmp_path / "one")
    restored = PartitionedIndex.restore(tmp_path / "one")
    restored.save(tmp_path / "two")
    for name in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    inputs = {"queries": queries[:5], "k": np.int32(K), "excluded": np.full((5, 2), 9, np.int32)}
    answer = tf.saved_model.load(str(tmp_path / "one")).signatures["search"](
        **{name: tf.constant(value) for name, value in inputs.items()}
    )
    for found in (index, restored):
        rows, scores = found.search(*inputs.values())
        np.testing.assert_array_equal(answer["rows"], rows)
        np.testing.assert_array_equal(answer["scores"], scores)
    assert all(hasattr(tf.raw_ops, name) for name in operations(tmp_path / "one"))
    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "one" / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    assert functions and not any(function.attr["_XlaMustCompile"].b for function in functions)


def test_bad_settings_are_named():
    table = np.ones((10, 4), np.float32)
    for wrong in ({"leaves": 0}, {"leaves": 10}, {"budget": 0}, {"measured_k": 0}):
        with pytest.raises(ValueError, match="leaves must lie between 1 and the 9 items"):
            PartitionedIndex.build(table, **wrong)
    with pytest.raises(ValueError, match="vectors: must be"):
        PartitionedIndex.build(table, vectors="int8")
    with pytest.raises(ValueError, match=r"half precision ends at 65504, received a value of 1e\+06"):
        PartitionedIndex.build(table * 1e6)


def test_auto_takes_the_partitioned_index_of_a_large_catalogue(world, tmp_path):
    table, queries, _, _ = world
    queries, settings = queries[:40], {"scann": False, "k": 50, "repeats": 5}
    report = build_indexes(table, queries, tmp_path / "large", exact_below=ITEMS, **settings)
    assert report["kind"] == report["stock_kind"] == "partitioned" and report["recall@50_vs_exact"] >= 0.95
    assert "12,000 items are 12,000 or more" in report["reason"] and not report["refused"]
    assert load_index(tmp_path / "large").kind == "partitioned"
    recalls = [row["recall@50_vs_exact"] for row in report["trade_off"] if row["kind"] == "partitioned"]
    assert len(recalls) >= 3 and recalls == sorted(recalls)
    assert f"{report['budget']} of {report['blocks']} blocks" in [row.get("setting") for row in report["trade_off"]]


def test_vectors_without_structure_are_refused_and_auto_says_so(tmp_path):
    rng = np.random.default_rng(2)
    table, queries = rng.normal(size=(10_001, 64)).astype(np.float32), rng.normal(size=(20, 64)).astype(np.float32)
    settings = {"scann": False, "exact_below": 0, "repeats": 5}
    report = build_indexes(table, queries, tmp_path / "auto", **settings)
    assert report["kind"] == "exact" and "at least 0.95 of the exact top 100, it found 0." in report["reason"]
    assert not (tmp_path / "auto" / "partitioned").exists()
    with pytest.raises(RecallBelowFloor, match="the partitioned index"):
        build_indexes(table, queries, tmp_path / "named", "partitioned", **settings)
    assert list((tmp_path / "named").iterdir()) == []


def test_what_is_gathered_from_is_never_read_whole():
    """TensorFlow copies a variable that is read after rows have been gathered from it: all of the catalogue, every search."""
    index = PartitionedIndex.build(np.random.default_rng(3).normal(size=(300, 8)).astype(np.float32), leaves=3)
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in (((8,), tf.float32), ((None,), tf.int32), ((None,), tf.int32))]
    graph = tf.function(index._search_one).get_concrete_function(*specs, tf.TensorSpec((), tf.int32)).graph
    touched = {kind: {op.inputs[0].name for op in graph.get_operations() if op.type == kind}
               for kind in ("ReadVariableOp", "ResourceGather")}  # fmt: skip
    assert len(touched["ResourceGather"]) >= 5 and not touched["ReadVariableOp"] & touched["ResourceGather"]
