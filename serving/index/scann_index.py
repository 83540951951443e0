"""The approximate index: ScaNN's TensorFlow operations behind the protocol of `CandidateIndex`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scann.scann_ops.py import scann_ops

from serving.index.index import LOWEST, Compiled, checked_k, checked_table, keep_best, save_index
from serving.saved_model import read_variables

SMALLEST_TREE = 1_000
"""Below this many items a tree has nothing to save and ScaNN scores by brute force."""

TENSORS = (
    "scann_config", "serialized_partitioner", "datapoint_to_token", "ah_codebook", "hashed_dataset", "int8_dataset",
    "int8_multipliers", "dp_norms", "dataset",
)  # fmt: skip
"""What ScaNN's searcher is rebuilt from, in the order of its operation's outputs."""


class ScannIndex(tf.Module):
    """Partitions, 4-bit codes, then exact scores of the best (Guo et al. 2020, "Accelerating large-scale inference with
    anisotropic vector quantization").

    A search takes the best `k + E'` (E' = the most rows excluded in the batch), drops the excluded ones and keeps k.
    Leaves and re-scored candidates grow with that number, so that a large k or a long exclusion list costs time and
    not recall; asking for as many as there are items searches all leaves. Every one of the k places is filled as long
    as items are left.

    The searcher is a resource named by the hash of its content: two functions or two loads of the same index share it,
    two different indexes never do. It is made at the first search, so warm up.

    Args:
        tensors: ScaNN's own tensors by the names of `TENSORS`; use `build`.
        leaves: number of partitions; 0 = brute force.
        leaves_to_search: partitions searched for small k.
        reorder: candidates scored exactly for small k.
    """

    kind = "scann"

    def __init__(self, tensors: Mapping[str, Any], *, leaves: int, leaves_to_search: int, reorder: int):
        super().__init__(name="scann_index")
        count, self.width = tensors["dataset"].shape
        self.items = int(count)
        self.item_rows = self.items + 1
        self.resource = f"triptych_scann_{_content_hash(tensors)}"
        self.tensors = {name: tf.Variable(tensors[name], trainable=False, name=f"index_{name}") for name in TENSORS}
        whole = {"leaves": leaves, "leaves_to_search": leaves_to_search, "reorder": reorder}
        self.leaves, self.leaves_to_search, self.reorder = (
            tf.Variable(value, dtype=tf.int32, trainable=False, name=f"index_{name}") for name, value in whole.items()
        )
        self.compiled = Compiled(self._search)

    @classmethod
    def build(
        cls,
        item_embeddings: np.ndarray,
        *,
        leaves: int | None = None,
        leaves_to_search: int | None = None,
        reorder: int = 1_000,
    ) -> ScannIndex:
        """Trains an index; the same table gives the same bytes.

        Leaves start from k-means++, since ScaNN's random start takes no seed.

        Args:
            item_embeddings: f32 [N + 1, D], row 0 ignored.
            leaves: partitions; default round(sqrt(N)), brute force under `SMALLEST_TREE` items.
            leaves_to_search: default a tenth of the leaves; `index_build` chooses it by measured recall.
            reorder: candidates scored exactly.

        Raises:
            ValueError: see `checked_table`; or settings that are not positive, or more leaves than items.
        """
        table = checked_table(item_embeddings)
        count = len(table) - 1
        if leaves is None:
            leaves = round(math.sqrt(count)) if count >= SMALLEST_TREE else 0
        if leaves_to_search is None:
            leaves_to_search = max(1, math.ceil(leaves / 10))
        if not 0 <= leaves <= count or leaves_to_search < 1 or reorder < 1:
            raise ValueError(
                f"leaves must lie between 0 and the {count} items, leaves_to_search and reorder be positive, received "
                f"{leaves}, {leaves_to_search}, {reorder}"
            )
        builder = scann_ops.builder(table[1:], min(100, count), "dot_product")
        if leaves:
            # Leaves to search and candidates to reorder are given at every search; here they only need to be valid.
            builder = builder.tree(leaves, 1, min_partition_size=1, random_init=False)
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(min(100, count))
        else:
            builder = builder.score_brute_force()
        searcher = builder.build()
        tensors = scann_ops.scann_to_tensors(searcher.searcher_handle)._asdict()
        tf.raw_ops.DestroyResourceOp(resource=searcher.searcher_handle)
        for name in ("datapoint_to_token", "hashed_dataset", "int8_dataset", "int8_multipliers", "dp_norms"):
            # ScaNN leaves unused tensors as scalars of uninitialised memory.
            if tensors[name].shape.rank == 0:
                tensors[name] = tf.zeros((), tensors[name].dtype)
        return cls(tensors, leaves=leaves, leaves_to_search=leaves_to_search, reorder=reorder)

    def search(self, queries, k, excluded):
        """See `CandidateIndex`."""
        return (self._search if tf.inside_function() else self.compiled)(queries, k, excluded)

    def _search(self, queries, k, excluded):
        k = checked_k(k)
        excluded = tf.where((excluded > 0) & (excluded < self.item_rows), excluded, 0)
        most = tf.reduce_max(tf.pad(tf.math.count_nonzero(excluded, axis=1, dtype=tf.int32), [[0, 1]]))
        fetch = tf.clip_by_value(k + most, 1, self.items)
        share = 2.0 * tf.cast(fetch, tf.float32) / self.items
        enough = tf.cast(tf.math.ceil(share * tf.cast(self.leaves, tf.float32)), tf.int32)
        leaves = tf.clip_by_value(tf.maximum(self.leaves_to_search, enough), tf.minimum(self.leaves, 1), self.leaves)
        found, distances = self._probe(queries, fetch, leaves)
        # Leaves differ in size: where those searched held too few items, search them all.
        short = (tf.shape(found)[1] < fetch) | tf.reduce_any(tf.math.is_nan(distances))
        found, distances = tf.cond(
            short, lambda: self._probe(queries, fetch, tf.identity(self.leaves)), lambda: (found, distances)
        )
        # ScaNN fills the lines of queries that found less with index 0 and distance NaN.
        missing = tf.math.is_nan(distances)
        rows = tf.where(missing, 0, found + 1)
        barred = tf.sort(tf.pad(excluded, [[0, 0], [0, 1]]), axis=1)
        places = tf.minimum(tf.searchsorted(barred, rows), tf.shape(barred)[1] - 1)
        hit = missing | (tf.gather(barred, places, batch_dims=1) == rows)
        return keep_best(rows, tf.where(hit, LOWEST, distances), k)

    def _probe(self, queries, fetch, leaves):
        found, distances = scann_ops.scann_search_batched(
            self._searcher(),
            queries,
            final_num_neighbors=fetch,
            pre_reordering_num_neighbors=tf.minimum(tf.maximum(self.reorder, 4 * fetch), self.items),
            leaves_to_search=tf.where(leaves > 0, leaves, -1),
            parallel=tf.shape(queries)[0] > 8,
        )
        return found, distances

    def _searcher(self):
        inputs = {("x" if name == "dataset" else name): self.tensors[name] for name in TENSORS}
        return scann_ops.tensors_to_scann(**inputs, shared_name=self.resource)

    def embeddings(self, rows):
        """See `CandidateIndex`."""
        rows = tf.convert_to_tensor(rows, tf.int32)
        found = tf.gather(self.tensors["dataset"], tf.maximum(rows - 1, 0))
        return tf.where((rows > 0)[..., None], found, 0.0)

    def release(self) -> None:
        """Frees the searcher in this process (about twice the table); the next search makes it again."""
        tf.raw_ops.DestroyResourceOp(resource=self._searcher())

    def save(self, folder: str | Path) -> None:
        """See `CandidateIndex`."""
        save_index(self, folder)

    @classmethod
    def restore(cls, folder: str | Path) -> ScannIndex:
        """The index that `save` wrote, without training again."""
        values = read_variables(folder)
        numbers = {name: int(values[name]) for name in ("leaves", "leaves_to_search", "reorder")}
        return cls({name: values[f"tensors/{name}"] for name in TENSORS}, **numbers)


def _content_hash(tensors: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in TENSORS:
        value = np.asarray(tensors[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(b"".join(value.ravel().tolist()) if value.dtype == object else np.ascontiguousarray(value).data)
    return digest.hexdigest()[:16]
