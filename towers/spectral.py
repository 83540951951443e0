"""Spectral vectors of the graph of items: chosen by the same users, or alike in content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from towers.linear import LinearTower

NEIGHBOURS = 5


def content_graph(table: np.ndarray, present: np.ndarray, neighbours: int = NEIGHBOURS, block: int = 1024) -> Any:
    """Each item joined to its nearest by the cosine of centred vectors, made symmetric and normalised by degree.

    Formula: `W_ij = max(cos, 0)` where j is among i's nearest or i among j's, `S = D^-1/2 W D^-1/2`.

    Shapes: table [N, F], present [N] bool -> sparse float32 [N, N]; absent items have no edges.
    """
    there = np.flatnonzero(present)
    size = len(present)
    if len(there) < 2:
        return scipy.sparse.csr_array((size, size), dtype=np.float32)
    vectors = np.asarray(table[there], np.float32)
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
    kept = min(neighbours, len(there) - 1)
    rows, columns, values = [], [], []
    for start in range(0, len(there), block):
        cosines = vectors[start : start + block] @ vectors.T
        lines = np.arange(len(cosines))
        cosines[lines, start + lines] = -np.inf
        nearest = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
        rows.append(np.repeat(there[start + lines], kept))
        columns.append(there[nearest].ravel())
        values.append(np.maximum(np.take_along_axis(cosines, nearest, 1), 0.0).ravel())
    edges = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    graph = scipy.sparse.csr_array(edges, shape=(size, size))
    return _normalised(graph.maximum(graph.T))


def _normalised(graph: Any) -> Any:
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = scipy.sparse.diags_array(np.where(degree > 0, 1.0 / np.sqrt(np.maximum(degree, 1e-12)), 0.0))
    return (scale @ graph @ scale).tocsr().astype(np.float32)


def spectrum(
    taken: Any, features: Mapping[str, tuple[np.ndarray, np.ndarray]], *, content: float, width: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues and eigenvectors of the item graph.

    Formula: `M = (1 - c) X~' X~ + c mean_m S_m`, with `X~ = D_u^-1/2 X D_i^-1/2`; its leading eigenvectors are the
    smoothest functions of the graph, the low frequencies that graph convolutions keep. Shen et al. (2021), *How powerful
    is graph convolution for recommendation?*

    Args:
        taken: sparse [U, N] of ones. features: {modality: (table [N, F_m], present [N])}. content: c in [0, 1).

    Returns: values [D], largest first, vectors [N, D]; D = min(width, N - 1).
    """
    per_user, per_item = (np.maximum(np.asarray(taken.sum(axis=axis), np.float64).ravel(), 1.0) for axis in (1, 0))
    normal = scipy.sparse.diags_array(per_user**-0.5) @ taken @ scipy.sparse.diags_array(per_item**-0.5)
    normal, size = normal.tocsr(), taken.shape[1]
    back = normal.T.tocsr()
    graphs = [content_graph(*pair) for pair in features.values()] if content else []

    def apply(vector: np.ndarray) -> np.ndarray:
        joined = (1.0 - content if graphs else 1.0) * (back @ (normal @ vector))
        for graph in graphs:
            joined = joined + content / len(graphs) * (graph @ vector)
        return joined

    operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=apply, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=size)
    values, vectors = scipy.sparse.linalg.eigsh(operator, k=min(width, size - 1), which="LA", v0=start, tol=1e-4)
    return values[::-1], vectors[:, ::-1]


def spectral_tower(
    values: np.ndarray, vectors: np.ndarray, counts: np.ndarray, *, diffusion: float, width: int
) -> LinearTower:
    """The item-to-item matrix of a diffusion on the graph, as a linear tower.

    Formula: `H = D^-1/2 V exp(t v)`, `A = D^1/2 V`: popular items say less and are candidates more.

    Shapes: values [W], vectors [N + 1, W], counts [N + 1] -> tables [N + 1, D], D = min(width, W).
    """
    kept = vectors[:, :width]
    degree = np.sqrt(np.maximum(np.asarray(counts, np.float64), 1.0))[:, None]
    history, items = kept / degree * np.exp(diffusion * values[:width]), kept * degree
    history[0] = items[0] = 0.0
    return LinearTower(history.astype(np.float32), items.astype(np.float32))
