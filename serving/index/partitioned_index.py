"""The partitioned index: an inverted file of core TensorFlow operations, so that any TF Serving image runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.index.index import (
    LOWEST,
    Compiled,
    checked_k,
    checked_table,
    exact_search,
    keep_best,
    known_rows,
    save_index,
)
from serving.index.partitioned_layout import BLOCK_ROWS, default_leaves, lay_out, partition
from serving.saved_model import read_variables

TENSORS = (
    "vectors", "rows", "row_slots", "router", "reach", "first_blocks", "block_leaves", "block_starts", "block_sizes", "codes",
    "steps",
)  # fmt: skip
"""The arrays that `serving.index.partitioned_layout.lay_out` makes."""

GROUP = 16
"""Places that share a maximum while the bound of the k best is looked for; a block is a multiple of it."""

MARGIN = 8
"""For every so many of k, one candidate more is scored exactly: eight bits may swap neighbours at the border."""

CHUNKS = 4
"""Parts of a scan, so that the floats of one stay in a core's cache: a quarter faster on a busy machine."""

MOST_EXCLUDED = 3
"""Times `measured_k` that excluded rows may stand in a scan's way; beyond, exact search answers."""

NEVER = 1 << 30
"""The place of a row that is not scanned."""


def fewest_blocks(k):
    """Blocks that have enough groups for the bound of k places, as a number or a tensor of floats."""
    return k * ((1.0 + 1.0 / MARGIN) * GROUP / BLOCK_ROWS) + 1.0


class PartitionedIndex(tf.Module):
    """Leaves of k-means in blocks of 64 rows: the best leaves are scanned in eight bits, the best rows scored exactly.

        leaves   in the order of q · m_l + |q| r_l, until their blocks fill the budget
        scan     s_r = (q ∘ step) · code_r for the rows of those blocks, excluded rows at `LOWEST`
        bound    the lowest of the k (1 + 1/8) largest maxima of groups of 16 places: rows at or above it stay
        answer   the k best of those that stay, by q · e_r

    Vectors and queries may have any length, see `serving.index.partitioned_layout`. The budget is chosen by measured recall of
    `measured_k` items (`serving.partitioned_build`); a query gets more in proportion to k and to its excluded rows that
    stand among the scanned ones. Where these are very many, or half of the catalogue would be scanned, or the blocks hold
    fewer than k items, exact search answers: every one of the k places is filled as long as items are left. A batch is
    searched a query at a time, so that its answers are those of single queries and its memory is bounded.

    All shapes are free: no batch size, k or number of excluded rows is slower for being new. Nothing is compiled by XLA. A
    stock TF Serving refuses compiled graphs ("XLA compilation disabled") unless it is started with
    `--xla_cpu_compilation_enabled`, and the scan gains at most a seventh by it.

    Args:
        tensors: arrays by the names of `TENSORS`, see `lay_out`.
        budget: blocks that a query scans.
        measured_k: the k that the budget was chosen for.

    References: Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search" (the inverted file).
    """

    kind = "partitioned"

    def __init__(self, tensors: Mapping[str, np.ndarray], *, budget: int, measured_k: int):
        super().__init__(name="partitioned_index")
        self.item_rows, self.width = tensors["vectors"].shape
        self.blocks, self.leaves = len(tensors["codes"]), len(tensors["router"])
        # A graph that knows none of these numbers is that of every catalogue.
        self.tensors = {name: _of_any_length(tensors[name], f"index_{name}") for name in TENSORS}
        fewest = int(np.diff(tensors["first_blocks"]).min())
        self.leaf_blocks = tf.Variable(fewest, dtype=tf.int32, trainable=False, name="index_leaf_blocks")
        self.budget = tf.Variable(budget, dtype=tf.int32, trainable=False, name="index_budget")
        self.measured_k = tf.Variable(measured_k, dtype=tf.int32, trainable=False, name="index_measured_k")
        self.compiled = Compiled(self._search)

    @classmethod
    def build(
        cls,
        item_embeddings: np.ndarray,
        *,
        leaves: int | None = None,
        budget: int | None = None,
        measured_k: int = 500,
        vectors: str = "float16",
        seed: int = 0,
    ) -> PartitionedIndex:
        """Trains an index; the same table and seed give the same bytes.

        Args:
            item_embeddings: f32 [N + 1, D], row 0 ignored.
            leaves: of k-means, see `partition`; default see `default_leaves`.
            budget: blocks that a query scans; default a thirtieth, `serving.index.tuning` chooses it by measured recall.
            measured_k: the k that the budget is meant for.
            vectors: "float16" (scores within 2^-11 of each value) or "float32".
            seed: of k-means.

        Raises:
            ValueError: see `checked_table`; or settings out of range, or values that half precision cannot hold.
        """
        table = checked_table(item_embeddings)
        count = len(table) - 1
        leaves = default_leaves(count) if leaves is None else leaves
        if not 1 <= leaves <= count or (budget is not None and budget < 1) or measured_k < 1:
            raise ValueError(
                f"leaves must lie between 1 and the {count} items, budget and measured_k be positive, received {leaves}, "
                f"{budget}, {measured_k}"
            )
        if vectors not in ("float16", "float32"):
            raise ValueError(f"vectors: must be 'float16' or 'float32', received {vectors!r}")
        largest = float(np.abs(table[1:]).max())
        if vectors == "float16" and largest > float(np.finfo(np.float16).max):
            raise ValueError(f"vectors: half precision ends at 65504, received a value of {largest:g}; take 'float32'")
        tensors = lay_out(table, partition(table[1:], leaves, seed), vectors)
        return cls(tensors, budget=budget or -(-len(tensors["codes"]) // 30), measured_k=measured_k)

    def search(self, queries, k, excluded):
        """See `CandidateIndex`."""
        return (self._search if tf.inside_function() else self.compiled)(queries, k, excluded)

    def _search(self, queries, k, excluded):
        k, excluded, batch = checked_k(k), known_rows(excluded, self._count("vectors")), tf.shape(queries)[0]
        scores = tf.matmul(queries, self.tensors["router"], transpose_b=True)
        scores += tf.norm(queries, axis=1, keepdims=True) * self.tensors["reach"]
        # So many leaves always have enough blocks.
        most = self._blocks_for(k + tf.minimum(tf.shape(excluded)[1], self._most_excluded())) // self.leaf_blocks + 1
        leaves = tf.math.top_k(scores, tf.minimum(most, self._count("router"))).indices

        def one():
            rows, scores = self._search_one(queries[0], leaves[0], excluded[0], k)
            return rows[None], scores[None]

        def each():
            # Nothing cannot be stacked: a batch of none is searched as one and cut off again.
            missing = [[0, tf.maximum(1 - batch, 0)], [0, 0]]
            found = tf.map_fn(
                lambda part: self._search_one(*part, k),
                tuple(tf.pad(part, missing) for part in (queries, leaves, excluded)),
                fn_output_signature=(tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float32)),
            )
            return found[0][:batch], found[1][:batch]

        return tf.cond(batch == 1, one, each)

    def _search_one(self, query, leaves, excluded, k):
        """Shapes: query f32 [D], leaves int32 [T] best first, excluded int32 [E] -> int32 [k], f32 [k]."""
        first = tf.gather(self.tensors["first_blocks"], leaves)
        ends = tf.cumsum(tf.gather(self.tensors["first_blocks"], leaves + 1) - first)
        shift = first - tf.pad(ends[:-1], [[1, 0]])
        with tf.name_scope("filter"):
            barred = self._places(leaves, shift, excluded)
            among = tf.math.count_nonzero(barred < self._blocks_for(k) * BLOCK_ROWS, dtype=tf.int32)
        budget = tf.minimum(self._blocks_for(k + among), ends[-1])
        steps = tf.range(budget)
        blocks = steps + tf.gather(shift, tf.searchsorted(ends, steps, side="right"))
        rows, scores = self._scan(query, blocks, barred, k)
        half, empty = 2 * budget > self._count("codes"), tf.reduce_any(scores[-1:] == LOWEST)
        insufficient = (among > self._most_excluded()) | half | empty

        def exact():
            vectors = tf.convert_to_tensor(self.tensors["vectors"])  # read once
            found, scores = exact_search(vectors, query[None], k, self._order(excluded)[None])
            return tf.gather(self.tensors["rows"], found[0]), scores[0]

        return tf.cond(insufficient, exact, lambda: (rows, scores))

    def _count(self, name):
        """Lines of a tensor: rows, blocks or leaves, in the graph.

        Asked of the variable: to read one that is also gathered from copies it whole.
        """
        return tf.raw_ops.VariableShape(input=self.tensors[name].handle)[0]

    def _most_excluded(self):
        """Excluded rows in the way that a longer scan makes up for."""
        return MOST_EXCLUDED * self.measured_k

    def _blocks_for(self, wanted):
        """Blocks to scan for so many rows: the budget, more beyond what it was measured for, and enough for the bound."""
        rows = tf.cast(wanted, tf.float32)
        grown = tf.cast(self.budget, tf.float32) * tf.maximum(1.0, rows / tf.cast(self.measured_k, tf.float32))
        blocks = tf.cast(self._count("codes"), tf.float32)
        return tf.cast(tf.math.ceil(tf.minimum(tf.maximum(grown, fewest_blocks(rows)), blocks)), tf.int32)

    def _places(self, leaves, shift, rows):
        """Where rows stand in the scan of these leaves, from 0; `NEVER` where their leaf is not among them."""
        slots = tf.gather(self.tensors["row_slots"], rows)
        blocks = slots // BLOCK_ROWS
        ranks = tf.tensor_scatter_nd_update(tf.fill([self._count("router")], -1), leaves[:, None], tf.range(tf.size(leaves)))
        ranks = tf.gather(ranks, tf.gather(self.tensors["block_leaves"], blocks))
        places = slots - tf.gather(shift, tf.maximum(ranks, 0)) * BLOCK_ROWS
        return tf.where((ranks >= 0) & (rows > 0), places, NEVER)

    def _scan(self, query, blocks, barred, k):
        """The k best rows of blocks [S] without the barred places [E]."""
        scaled, part = query * self.tensors["steps"], (tf.size(blocks) + CHUNKS - 1) // CHUNKS
        scores = []
        for chunk in range(CHUNKS):
            codes = tf.gather(self.tensors["codes"], blocks[chunk * part : (chunk + 1) * part])
            codes = tf.reshape(tf.cast(codes, tf.float32), (-1, self.width))
            scores.append(tf.linalg.matvec(codes, scaled))
        filled = tf.range(BLOCK_ROWS) < tf.gather(self.tensors["block_sizes"], blocks)[:, None]
        scores = tf.where(filled, tf.reshape(tf.concat(scores, axis=0), (-1, BLOCK_ROWS)), LOWEST)
        scores = tf.reshape(scores, (-1,))
        with tf.name_scope("filter"):
            barred = tf.boolean_mask(barred, barred < tf.size(scores))
            scores = tf.tensor_scatter_nd_update(scores, barred[:, None], tf.fill(tf.shape(barred), LOWEST))
        maxima = tf.reduce_max(tf.reshape(scores, (GROUP, -1)), axis=0)
        best = tf.math.top_k(maxima, tf.minimum(k + k // MARGIN + 1, tf.size(maxima)), sorted=False).values
        places = tf.cast(tf.where(scores >= tf.reduce_min(best))[:, 0], tf.int32)
        starts = tf.gather(self.tensors["block_starts"], blocks)
        # Padding behind the last row of all points nowhere.
        found = tf.minimum(tf.gather(starts, places // BLOCK_ROWS) + places % BLOCK_ROWS, self._count("vectors") - 1)
        exact = tf.linalg.matvec(tf.cast(tf.gather(self.tensors["vectors"], found), tf.float32), query)
        exact = tf.where(tf.gather(scores, places) > LOWEST, exact, LOWEST)
        found, scores = keep_best(found[None], exact[None], k)
        return tf.gather(self.tensors["rows"], found[0]), scores[0]

    def _order(self, rows):
        """Where rows stand in `vectors`."""
        slots = tf.gather(self.tensors["row_slots"], rows)
        found = tf.gather(self.tensors["block_starts"], slots // BLOCK_ROWS) + slots % BLOCK_ROWS
        return tf.where(rows > 0, found, 0)

    def embeddings(self, rows):
        """See `CandidateIndex`."""
        places = self._order(tf.convert_to_tensor(rows, tf.int32))
        return tf.cast(tf.gather(self.tensors["vectors"], places), tf.float32)

    def save(self, folder: str | Path) -> None:
        """See `CandidateIndex`."""
        save_index(self, folder)

    @classmethod
    def restore(cls, folder: str | Path) -> PartitionedIndex:
        """The index that `save` wrote."""
        return cls.from_variables(read_variables(folder))

    @classmethod
    def from_variables(cls, values: Mapping[str, np.ndarray]) -> PartitionedIndex:
        """The index of its variables' values."""
        tensors = {name: values[f"tensors/{name}"] for name in TENSORS}
        return cls(tensors, budget=int(values["budget"]), measured_k=int(values["measured_k"]))


def _of_any_length(values: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(values, trainable=False, shape=(None, *np.shape(values)[1:]), name=name)
