"""Boosted trees as a Keras layer: complete binary trees in three vectors, all questions of which are asked at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

DEPTH = 4
"""D, questions from the root to a leaf."""
NODES, LEAVES = 2**DEPTH - 1, 2**DEPTH
TREES_AT_ONCE = 64
"""Trees answered by one chain of operations: fewer would be slower to start, more would hold too much at a time."""
ROWS_AT_ONCE = 4096
"""Vectors that compiled trees answer at a time, which a core's own memory holds; of fewer no compiler is asked."""


@dataclasses.dataclass(frozen=True)
class TreeTables:
    """T complete trees of depth D; node n asks before its children 2 n + 1 and 2 n + 2, leaves lie from left to right.

    Attributes:
        columns: int32 [2^D - 1, T], the feature that a node asks for.
        thresholds: f32 [2^D - 1, T]; a feature above it goes right.
        leaves: f32 [2^D, T].
    """

    columns: np.ndarray
    thresholds: np.ndarray
    leaves: np.ndarray

    @property
    def count(self) -> int:
        """T."""
        return self.leaves.shape[1]

    def padded(self, count: int) -> TreeTables:
        """With trees of nothing behind them, `count` in all."""
        more = ((0, 0), (0, count - self.count))
        return TreeTables(*(np.pad(table, more) for table in (self.columns, self.thresholds, self.leaves)))

    def scaled(self, factor: float) -> TreeTables:
        """The same trees, their leaves multiplied."""
        return dataclasses.replace(self, leaves=(self.leaves * factor).astype(np.float32))


class BoostedTrees(keras.layers.Layer):
    """The sum of T trees, for every vector of features.

        m(x) = sum_t leaf_t(path of x),  a node goes right where x[column] > threshold

    Every question of every tree is asked at once; then, level by level, the answers above leave one of the answers below, and
    the turns taken are the number of a leaf: whole arrays of bits in the place of branches. On one core 500 candidates and 256
    trees take three fifths of the time of matrix products that tell the leaf from all answers (Nakandala et al., "A Tensor
    Compiler for Unified Machine Learning Prediction Serving" (Hummingbird), OSDI 2020, https://arxiv.org/abs/2010.04804).

    Many vectors outside of a graph, as they are asked by the ten thousand to calibrate and to judge, are answered by
    `chosen_upwards`, compiled, faster still; a graph that is to be served has to do without a compiler.

    Args:
        count: T, at least 1.

    Shapes: `call(x [..., X]) -> [...]`. Tables are kept as vectors, which a release never rounds: a threshold that moves by
    half a precision would send whole groups of items the other way.

    Raises:
        ValueError: a count below 1; at `assign`, tables of other sizes.

    Example:
        >>> trees = BoostedTrees(1)
        >>> trees.assign(complete_trees([{"feature": 0, "threshold": 0.5, "left": {"leaf": -1.0}, "right": {"leaf": 2.0}}]))
        >>> np.asarray(trees(np.array([[0.5], [0.6]], "float32"))).tolist()
        [-1.0, 2.0]
    """

    def __init__(self, count: int, **kwargs):
        super().__init__(trainable=False, **kwargs)
        if count < 1:
            raise ValueError(f"count must be at least 1 tree, received {count}")
        self.count = int(count)
        self.columns = self.add_weight(
            shape=(NODES * count,), dtype="int32", initializer="zeros", trainable=False, name="columns"
        )
        self.thresholds = self.add_weight(
            shape=(NODES * count,), initializer="zeros", trainable=False, name="thresholds"
        )
        self.leaves = self.add_weight(shape=(LEAVES * count,), initializer="zeros", trainable=False, name="leaves")
        self.built = True

    def assign(self, tables: TreeTables) -> None:
        """Takes the trees of `tables`."""
        for mine in (self.columns, self.thresholds, self.leaves):
            table = getattr(tables, mine.name)
            if table.size != mine.shape[0]:
                raise ValueError(
                    f"tables must be of {self.count} trees of depth {DEPTH}, received {table.shape} as {mine.name}"
                )
            mine.assign(table.reshape(-1))

    def tables(self) -> TreeTables:
        """The trees as they are kept."""
        kept = (self.columns, self.thresholds, self.leaves)
        return TreeTables(*(ops.convert_to_numpy(table).reshape(-1, self.count) for table in kept))

    def call(self, x):
        rows = ops.reshape(x, (-1, x.shape[-1]))
        many = hasattr(rows, "numpy") and len(rows) >= ROWS_AT_ONCE  # a tensor of a graph has no values yet
        return ops.reshape(self._by_compiled(rows) if many else self._by_turns(rows), ops.shape(x)[:-1])

    def _by_turns(self, rows):
        columns, thresholds = (ops.reshape(table, (NODES, self.count)) for table in (self.columns, self.thresholds))
        by_feature = ops.transpose(rows)  # [X, N]: a feature of all is one line
        total = 0.0
        for first in range(0, self.count, TREES_AT_ONCE):
            trees = slice(first, min(first + TREES_AT_ONCE, self.count))
            right = ops.take(by_feature, columns[:, trees], axis=0) > thresholds[:, trees, None]  # [2^D - 1, T', N]
            turns, place = [], ops.arange(trees.start, trees.stop, dtype="int32")[:, None]
            for level in range(DEPTH):
                asked = right[2**level - 1 : 2 ** (level + 1) - 1]
                for turn in turns:
                    half = asked.shape[0] // 2
                    asked = ops.where(turn, asked[half:], asked[:half])
                turns.append(asked[0])
                place = place + ops.cast(asked[0], "int32") * (2 ** (DEPTH - 1 - level) * self.count)
            total = total + ops.sum(ops.take(self.leaves, place, axis=0), axis=0)
        return total

    def _by_compiled(self, rows):
        padded = np.pad(ops.convert_to_numpy(rows), ((0, -len(rows) % ROWS_AT_ONCE), (0, 0)))
        tables = [ops.convert_to_tensor(table) for table in (self.columns, self.thresholds, self.leaves)]
        blocks = np.split(padded, len(padded) // ROWS_AT_ONCE)
        found = np.concatenate([_compiled().predict_on_batch([block, *tables]) for block in blocks])
        return ops.convert_to_tensor(found[: len(rows)])


def chosen_upwards(rows, columns, thresholds, leaves):
    """The sum of T trees, level by level from the leaves: what is reached below a node is what its right child has where it
    goes right, else what its left child has. A compiler makes one loop of it, which keeps nothing that it looks at.

    Args:
        rows: [N, X]. columns, thresholds: [(2^D - 1) T]. leaves: [2^D T].

    Returns: [N].
    """
    columns, thresholds, leaves = (
        ops.reshape(table, (height, -1)) for table, height in ((columns, NODES), (thresholds, NODES), (leaves, LEAVES))
    )
    right = ops.take(ops.transpose(rows), columns, axis=0) > thresholds[..., None]  # [2^D - 1, T, N]
    reached = leaves[..., None]
    for level in reversed(range(DEPTH)):
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        reached = ops.where(right[nodes], reached[1::2], reached[0::2])
    return ops.sum(reached[0], axis=0)


class ChosenUpwards(keras.Model):
    """`chosen_upwards` as a model, since a model can be compiled on every backend."""

    def call(self, inputs):
        return chosen_upwards(*inputs)


@functools.cache
def _compiled() -> keras.Model:
    """By XLA, once for every number of trees."""
    model = ChosenUpwards()
    model.compile(jit_compile=True)
    return model


def complete_trees(roots: list[Mapping[str, Any]]) -> TreeTables:
    """Trees of any shape, at most D deep, as complete ones: a leaf that comes early fills all places below it.

    Args:
        roots: nodes {"feature": column, "threshold": t, "left": node of x <= t, "right": node} or {"leaf": value}. Features
            are single precision, so a threshold becomes the largest such number that is not above it: the same x pass.

    Raises:
        ValueError: a tree deeper than D, or none at all.
    """
    if not roots:
        raise ValueError("roots must hold at least one tree, received none")
    columns = np.zeros((NODES, len(roots)), np.int32)
    thresholds = np.zeros((NODES, len(roots)), np.float32)
    leaves = np.zeros((LEAVES, len(roots)), np.float32)

    def fill(tree: int, node: Mapping[str, Any], place: int, first: int, width: int) -> None:
        """The node at a place, above `width` leaves from `first` on."""
        if "leaf" in node:
            leaves[first : first + width, tree] = node["leaf"]
        elif width == 1:
            raise ValueError(f"roots must be at most {DEPTH} deep, received a deeper tree as number {tree}")
        else:
            columns[place, tree], thresholds[place, tree] = node["feature"], not_above(node["threshold"])
            fill(tree, node["left"], 2 * place + 1, first, width // 2)
            fill(tree, node["right"], 2 * place + 2, first + width // 2, width // 2)

    for tree, root in enumerate(roots):
        fill(tree, root, 0, 0, LEAVES)
    return TreeTables(columns, thresholds, leaves)


def not_above(threshold: float) -> np.float32:
    """The largest single-precision number that is at most `threshold`.

    Example:
        >>> float(not_above(0.5)), float(not_above(0.1)) <= 0.1
        (0.5, True)
    """
    rounded = np.float32(threshold)
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded
