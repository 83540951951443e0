"""Trees in three vectors against the walk from the root to a leaf."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.trees import DEPTH, ROWS_AT_ONCE, BoostedTrees, complete_trees, not_above


def grown(rng, depth=0):
    """A tree of a random shape over four features; thresholds are often values that features have."""
    if depth == DEPTH or rng.random() < 0.2:
        return {"leaf": float(rng.normal())}
    threshold = float(rng.choice([rng.normal(), 0.1, np.float64(np.float32(0.1))]))
    children = {side: grown(rng, depth + 1) for side in ("left", "right")}
    return {"feature": int(rng.integers(4)), "threshold": threshold, **children}


def walked(node, x):
    while "leaf" not in node:
        node = node["left" if float(x[node["feature"]]) <= node["threshold"] else "right"]
    return node["leaf"]


@pytest.mark.parametrize("count", [1, 130])
def test_trees_answer_as_a_walk_does_in_any_shape(count):
    rng = np.random.default_rng(count)
    roots = [grown(rng) for _ in range(count)]
    trees = BoostedTrees(count)
    trees.assign(complete_trees(roots))
    x = rng.normal(size=(3, 5, 4)).astype(np.float32)
    x[0, :, 0] = np.float32(0.1)
    expected = np.array([[sum(walked(root, row) for root in roots) for row in line] for line in x])
    found = np.asarray(trees(x))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(np.asarray(trees(x[1, 2])), found[1, 2], atol=1e-5)
    for name, kept in vars(trees.tables()).items():
        np.testing.assert_array_equal(kept, getattr(complete_trees(roots), name))
    trees.assign(complete_trees(roots).scaled(-2.0))
    np.testing.assert_allclose(np.asarray(trees(x)), -2 * found, atol=1e-4)


@pytest.mark.parametrize("rows", [ROWS_AT_ONCE - 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 1])
def test_many_rows_are_answered_alike_at_once_and_in_a_graph(rows):
    rng = np.random.default_rng(rows)
    roots = [grown(rng) for _ in range(70)]
    trees = BoostedTrees(70)
    trees.assign(complete_trees(roots))
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    x[::7, 0] = np.float32(0.1)
    at_once, graph = np.asarray(trees(x)), np.asarray(tf.function(trees)(x))
    np.testing.assert_allclose(at_once, graph, atol=1e-4)
    some = [*range(0, rows, 97), rows - 1]
    np.testing.assert_allclose(at_once[some], [sum(walked(root, row) for root in roots) for row in x[some]], atol=1e-4)
    with tf.GradientTape() as tape:  # trees have no slope, however they are answered
        given_rows = tf.Variable(x)
        total = tf.reduce_sum(trees(given_rows * 2.0)) + tf.reduce_sum(given_rows)
    np.testing.assert_array_equal(tape.gradient(total, given_rows), np.ones_like(x))


@settings(max_examples=200, deadline=None)
@given(st.floats(-(2.0**99), 2.0**99), st.floats(-(2.0**99), 2.0**99, width=32))
def test_a_rounded_threshold_lets_the_same_numbers_pass(threshold, x):
    for value in (np.float32(x), np.float32(threshold), np.nextafter(np.float32(threshold), np.float32(np.inf))):
        assert (value <= not_above(threshold)) == (float(value) <= threshold)


def test_what_is_no_set_of_such_trees_is_refused():
    deep = {"leaf": 1.0}
    for _ in range(DEPTH + 1):
        deep = {"feature": 0, "threshold": 0.0, "left": deep, "right": {"leaf": 0.0}}
    for make in (lambda: complete_trees([deep]), lambda: complete_trees([]), lambda: BoostedTrees(0)):
        with pytest.raises(ValueError, match="must"):
            make()
    with pytest.raises(ValueError, match="2 trees"):
        BoostedTrees(2).assign(complete_trees([{"leaf": 1.0}]))
