"""What an index is worth: recall against exact search, and the time of one query."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.index.index import CandidateIndex

BLOCK = 64
"""Queries searched together where speed is not measured: 64 × 1M float32 scores are 256 MB."""

TIE = 1e-5
"""Cosines closer than this are the same to float32 sums of different order."""


def search_in_blocks(
    index: CandidateIndex, queries: np.ndarray, k: int, excluded: np.ndarray | None = None, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Searches many queries a block at a time.

    Shapes: queries [Q, D], excluded [Q, E] rows (0 = none) -> rows int32 [Q, k], scores f32 [Q, k], as NumPy arrays.
    """
    queries = np.asarray(queries, np.float32)
    excluded = np.zeros((len(queries), 0), np.int32) if excluded is None else np.asarray(excluded, np.int32)
    rows, scores = np.zeros((len(queries), k), np.int32), np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        found = index.search(tf.constant(queries[part]), tf.constant(k), tf.constant(excluded[part]))
        rows[part], scores[part] = found[0].numpy(), found[1].numpy()
    return rows, scores


def recall_at_k(rows: np.ndarray, true_scores: np.ndarray, queries: np.ndarray, item_embeddings: np.ndarray) -> float:
    """Mean share of the true k nearest that were found.

        recall = |{r in found : q · e_r >= s_k - 1e-5}| / k,   s_k = score of the true k-th neighbour

    An item as near as the k-th counts: items with equal vectors are equally right. Scores are computed anew here from
    the vectors, not taken from the index.

    Shapes: rows [Q, k] (0 = nothing found), true_scores [Q, k] descending, queries [Q, D], item_embeddings [N + 1, D].

    Example:
        >>> items = np.array([[0.0], [3.0], [2.0], [1.0]])
        >>> recall_at_k(np.array([[1, 3]]), np.array([[3.0, 2.0]]), np.array([[1.0]]), items)
        0.5
    """
    hits = 0
    for found, true, query in zip(rows, true_scores, queries, strict=True):
        distinct = np.unique(found[found > 0])
        hits += int((item_embeddings[distinct] @ query >= true[-1] - TIE).sum())
    return hits / rows.size


def measure_latency(index: CandidateIndex, queries: np.ndarray, k: int, repeats: int = 200) -> tuple[float, float]:
    """p50 and p99 milliseconds of one query, warm, one at a time, through the concrete function in this process."""
    search = index.compiled.function.get_concrete_function()
    inputs = [tf.constant(queries[number % len(queries)][None], tf.float32) for number in range(repeats)]
    wanted, excluded = tf.constant(k), tf.zeros((1, 0), tf.int32)
    seconds = []
    for number, query in enumerate([*inputs[:20], *inputs]):
        start = time.perf_counter()
        search(query, wanted, excluded)[0].numpy()
        if number >= min(20, repeats):
            seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return round(float(p50), 4), round(float(p99), 4)


def folder_bytes(folder: str | Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
