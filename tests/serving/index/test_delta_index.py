"""Changes beside an index: they answer what a rebuild answers, at once, here and in a server's own copy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.index.delta_index import DeltaIndex
from serving.index.index import LOWEST, ExactIndex
from serving.index.partitioned_index import PartitionedIndex
from serving.saved_model import operations
from tests.serving.index.test_index import clustered

ITEMS, WIDTH, K, CAPACITY = 9_000, 16, 40, 64


@pytest.fixture(scope="module")
def world():
    table, queries = clustered(ITEMS + 50, WIDTH, seed=9)
    base, new = table[: ITEMS + 1], table[ITEMS + 1 :]
    return base, new, queries, PartitionedIndex.build(base, budget=40, measured_k=K, vectors="float32")


@pytest.fixture(scope="module")
def small():
    """A delta of an exact index, which every example empties again."""
    table, _ = clustered(30, 8, seed=2)
    return table, DeltaIndex(ExactIndex(table), 12)


def empty(index: DeltaIndex) -> None:
    index.added_count.assign(0)
    index.deleted_count.assign(0)


CHANGES = st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=12)


@settings(max_examples=25, deadline=None)
@given(CHANGES, st.integers(0, 60), st.lists(st.integers(-3, 50), max_size=6), st.integers(0, 2**32 - 1))
def test_any_changes_answer_as_a_rebuild(small, changes, k, excluded, seed):
    table, index = small
    empty(index)
    rng = np.random.default_rng(seed)
    vectors, gone = list(table), set()
    for add, row in changes:
        if add and len(vectors) < len(table) + index.capacity:
            vectors.append(rng.normal(size=8).astype(np.float32))
            assert index.add([vectors[-1]]).tolist() == [len(vectors) - 1]
        elif not add and 0 < row < len(vectors):
            gone.add(row)
            assert index.delete([row, row]) == len(gone)
    queries = rng.normal(size=(3, 8)).astype(np.float32)
    barred = np.array([[*excluded, *gone]] * 3, np.int32).reshape(3, -1)
    expected = ExactIndex(np.array(vectors)).search(queries, k, barred)
    rows, scores = index.search(queries, k, np.array([excluded] * 3, np.int32).reshape(3, -1))
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_allclose(scores, expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(index.embeddings(np.arange(len(vectors))), np.array(vectors))


def test_added_items_are_found_at_once_beside_a_scan(world):
    base, new, queries, partitioned = world
    index = DeltaIndex(partitioned, CAPACITY)
    nothing = np.zeros((len(new), 0), np.int32)
    before = index.search(queries[:50], K, np.zeros((50, 0), np.int32))
    np.testing.assert_array_equal(before[0], partitioned.search(queries[:50], K, np.zeros((50, 0), np.int32))[0])
    rows = index.add(new)
    np.testing.assert_array_equal(rows, np.arange(ITEMS + 1, ITEMS + 51))
    found, scores = index.search(new, K, nothing)
    np.testing.assert_array_equal(found[:, 0], rows)
    np.testing.assert_allclose(scores[:, 0], np.square(new).sum(axis=1), rtol=1e-5)
    excluded = index.search(new, K, rows[:, None])[0].numpy()
    assert not (excluded == rows[:, None]).any() and (excluded > 0).all()
    rebuilt, _ = ExactIndex(np.concatenate([base, new])).search(queries, K, np.zeros((len(queries), 0), np.int32))
    found = index.search(queries, K, np.zeros((len(queries), 0), np.int32))[0].numpy()
    old, _ = ExactIndex(base).search(queries, K, np.zeros((len(queries), 0), np.int32))
    parted = partitioned.search(queries, K, np.zeros((len(queries), 0), np.int32))[0].numpy()
    share = [np.mean([len(set(a) & set(b)) / K for a, b in zip(*pair, strict=True)]) for pair in
             ((found, rebuilt.numpy()), (parted, old.numpy()))]  # fmt: skip
    assert share[0] > share[1] - 0.005 > 0.9  # as near to a rebuild as the base is to its own


def test_deleted_items_are_never_returned_and_their_places_are_filled(world):
    _, new, queries, partitioned = world
    index = DeltaIndex(partitioned, CAPACITY)
    added = index.add(new[:4])
    nearest = index.search(queries[:10], 5, np.zeros((10, 0), np.int32))[0].numpy()
    gone = np.unique(np.concatenate([nearest.ravel(), added[:2]]))
    assert index.delete(gone) == len(gone)
    for k in (5, K, 5_000):
        rows = index.search(queries[:10], k, np.zeros((10, 0), np.int32))[0].numpy()
        assert not np.isin(rows, gone).any() and (rows > 0).all()
    everything = index.search(queries[:1], ITEMS + 50, [[]])[0].numpy()[0]
    assert set(everything) == set(range(1, ITEMS + 5)) - set(gone.tolist()) | {0}


def test_no_room_and_no_such_row_change_nothing():
    index = DeltaIndex(ExactIndex(np.eye(4, dtype=np.float32)), 2)
    index.add(np.ones((1, 4)))
    for bad, message in ((np.ones((2, 4)), "no room, rebuild the index"), ([[np.nan, 0, 0, 0]], "must be finite")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            index.add(bad)
    for rows, message in (([1, 2, 3], "no room"), ([0], "must be rows of items"), ([5], "must be"), ([-1], "must be")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            index.delete(rows)
    rows, scores = index.search(np.ones((1, 4), np.float32), 6, [[]])
    assert sorted(rows.numpy()[0].tolist()) == [0, 0, 1, 2, 3, 4] and (scores.numpy()[0, 4:] == LOWEST).all()
    with pytest.raises(ValueError, match="capacity must be positive and base exact or partitioned, received 2 and 'delta'"):
        DeltaIndex(index, 2)


def test_a_servers_copy_takes_changes_and_a_saved_one_keeps_them(world, tmp_path):
    _, new, queries, partitioned = world
    index = DeltaIndex(partitioned, CAPACITY)
    index.add(new[:1])
    index.save(tmp_path / "saved")
    assert all(hasattr(tf.raw_ops, name) for name in operations(tmp_path / "saved"))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "saved")).signature_def

        def call(name, **inputs):
            signature = signatures[name]
            outputs = {key: value.name for key, value in signature.outputs.items()}
            return session.run(outputs, {signature.inputs[key].name: value for key, value in inputs.items()})

        def search(vectors):
            return call("search", queries=vectors, k=3, excluded=np.zeros((len(vectors), 0), np.int32))["rows"]

        assert search(new[:2])[0, 0] == ITEMS + 1 and search(new[:2])[1, 0] <= ITEMS
        assert call("add", embeddings=new[1:3])["rows"].tolist() == [ITEMS + 2, ITEMS + 3]
        assert search(new[:3])[:, 0].tolist() == [ITEMS + 1, ITEMS + 2, ITEMS + 3]
        assert call("delete", rows=[ITEMS + 1, int(search(queries[:1])[0, 0])])["deleted"] == 2
        answers = search(np.concatenate([new[:3], queries[:1]]))
        with pytest.raises(tf.errors.InvalidArgumentError, match="no room"):
            call("add", embeddings=np.zeros((CAPACITY, WIDTH), np.float32))
    assert answers[0, 0] != ITEMS + 1 and answers[1:3, 0].tolist() == [ITEMS + 2, ITEMS + 3]
    restored = DeltaIndex.restore(tmp_path / "saved")
    nothing = np.zeros((5, 0), np.int32)
    np.testing.assert_array_equal(restored.search(queries[:5], K, nothing)[0], index.search(queries[:5], K, nothing)[0])
    assert restored.add(new[1:2]).tolist() == [ITEMS + 2] and restored.search(new[:1], 1, [[]])[0].numpy()[0, 0] == ITEMS + 1
