"""Building the indexes of a run: train, measure against exact search, refuse what is not good enough, save."""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.index import CandidateIndex, ExactIndex, checked_table

KINDS = ("exact", "scann")
REPORT = "report.json"
BLOCK = 64
"""Queries searched together where speed is not measured: 64 × 1M float32 scores are 256 MB."""

POINTS_BEYOND = 2
"""Points of the trade-off that are measured after the goal is reached, so that a plot shows where more buys nothing."""

TIE = 1e-5
"""Cosines closer than this are the same to float32 sums of different order."""


class RecallBelowFloor(ValueError):
    """An index that loses more of the true neighbours than the configuration allows; nothing of it is saved."""


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


def build_indexes(
    item_embeddings: np.ndarray,
    queries: np.ndarray,
    out: str | Path,
    kinds: Sequence[str] = KINDS,
    *,
    recall_floor: float = 0.95,
    recall_target: float = 0.995,
    k: int = 100,
    repeats: int = 200,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Builds, measures and saves the indexes of a run into `<out>/<kind>/`, and `<out>/report.json` last.

    ScaNN's leaves to search are chosen as the fewest that reach `recall_target` on one half of the queries; the recall
    reported is that of the other half. Nothing but an empty folder is left when an index is refused.

    Args:
        item_embeddings: f32 [N + 1, D], row 0 ignored.
        queries: f32 [Q, D], real query vectors, Q >= 1.
        out: folder to write into; made if need be.
        kinds: "exact" and "scann" or one of them.
        recall_floor: least recall@k against exact of an index that may be saved.
        recall_target: what the choice of leaves aims at.
        k: neighbours compared and timed; N when there are fewer items.
        repeats: single queries timed for each figure.
        say: receives one line a step.

    Returns:
        The report: `kind` (the approximate index when there is one), `recall@100_vs_exact`, `p50_ms`, `p99_ms`,
        `bytes`, `build_seconds` of that index; `recall_floor`, `items`, `width`, `queries`, `k`; the same figures for
        each of `kinds` under its name; `trade_off`: rows with `kind`, `leaves_to_search`, `recall@100_vs_exact`,
        `p50_ms`, `p99_ms`, `bytes`.

    Raises:
        ValueError: unknown kind, widths that differ, no queries, or see `serving.index.checked_table`.
        RecallBelowFloor: with the figures.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds: must be one or more of {KINDS}, received {list(kinds)}")
    table, queries, out = checked_table(item_embeddings), np.asarray(queries, np.float32), Path(out)
    if queries.ndim != 2 or not len(queries) or queries.shape[1] != table.shape[1]:
        raise ValueError(
            f"queries: need [Q, {table.shape[1]}] with Q >= 1 like item_embeddings, received shape {queries.shape}"
        )
    say = say or (lambda line: None)
    out.mkdir(parents=True, exist_ok=True)
    k = min(k, len(table) - 1)
    report: dict[str, Any] = {
        "recall_floor": recall_floor,
        "items": len(table) - 1,
        "width": table.shape[1],
        "queries": len(queries),
        "k": k,
        "trade_off": [],
    }

    start = time.perf_counter()
    exact = ExactIndex(table)
    seconds = time.perf_counter() - start
    _, truth = search_in_blocks(exact, queries, k)
    if "exact" in kinds:
        p50, p99 = measure_latency(exact, queries, k, repeats)
        exact.save(out / "exact")
        report["exact"] = _figures("exact", 1.0, p50, p99, _bytes(out / "exact"), seconds)
        report["trade_off"].append({**_point(report["exact"]), "leaves_to_search": None})
        say(f"exact index: {len(table) - 1} items, p50 {p50} ms")
    # A large table is not held twice; the compiled search refers back to its index, hence the collector.
    del exact
    gc.collect()
    if "scann" in kinds:
        try:
            report["scann"], points = _build_scann(table, queries, truth, out, k, recall_floor, recall_target, repeats)
        except RecallBelowFloor:
            shutil.rmtree(out / "exact", ignore_errors=True)
            raise
        report["trade_off"] += points
        say(f"scann index: recall@{k} {report['scann']['recall@100_vs_exact']:.4f}, p50 {report['scann']['p50_ms']} ms")
    report = {**report["scann" if "scann" in kinds else "exact"], **report}
    (out / REPORT).write_text(json.dumps(report, indent=2, sort_keys=True))
    return report


def _build_scann(table, queries, truth, out, k, floor, target, repeats):
    # ScaNN loads a library of operations when imported; a run with the exact index alone does not need it.
    from serving.scann_index import ScannIndex

    start = time.perf_counter()
    index = ScannIndex.build(table)
    leaves, count = int(index.leaves.numpy()), len(table) - 1
    chosen = slice(0, None, 2)
    held_out = slice(1, None, 2) if len(queries) > 1 else chosen

    def recall(part: slice) -> float:
        return recall_at_k(search_in_blocks(index, queries[part], k)[0], truth[part], queries[part], table)

    # Fewer leaves than hold 2 k items on average are never searched, see ScannIndex.
    lowest = min(leaves, math.ceil(2 * k * leaves / count))
    ladder = sorted(
        {min(leaves, round(lowest * 2 ** (step / 2))) for step in range(2 * math.ceil(math.log2(max(leaves, 1))) + 1)}
    )
    best, points = None, []
    while best is None:
        points, beyond = [], 0
        for leaves_to_search in ladder:
            index.leaves_to_search.assign(max(leaves_to_search, 1))
            points.append((leaves_to_search, recall(chosen)))
            if points[-1][1] >= target:
                best = leaves_to_search if best is None else best
                beyond += 1
            if beyond > POINTS_BEYOND:
                break
        if best is None and int(index.reorder.numpy()) < count:
            index.reorder.assign(min(count, 2 * int(index.reorder.numpy())))
        elif best is None:
            best = max(points, key=lambda point: point[1])[0]
    index.leaves_to_search.assign(max(best, 1))
    reported = recall(held_out)
    seconds = time.perf_counter() - start
    if reported < floor:
        raise RecallBelowFloor(
            f"recall_floor: the scann index must find at least {floor} of the exact top {k}, it found {reported:.4f} "
            f"with {best} of {leaves} leaves on {len(queries[held_out])} queries over {count} items; serve the exact "
            "index, or lower the floor"
        )
    rows = []
    for leaves_to_search, reached in points:
        index.leaves_to_search.assign(max(leaves_to_search, 1))
        p50, p99 = measure_latency(index, queries, k, repeats)
        rows.append(
            {
                "kind": "scann",
                "leaves_to_search": leaves_to_search,
                "recall@100_vs_exact": reached,
                "p50_ms": p50,
                "p99_ms": p99,
            }
        )
    index.leaves_to_search.assign(max(best, 1))
    p50, p99 = measure_latency(index, queries, k, repeats)
    index.save(out / "scann")
    size = _bytes(out / "scann")
    index.release()
    settings = {"leaves": leaves, "leaves_to_search": best, "reorder": int(index.reorder.numpy())}
    figures = {**_figures("scann", reported, p50, p99, size, seconds), **settings}
    return figures, [{**row, "bytes": size} for row in rows]


def _figures(kind: str, recall: float, p50: float, p99: float, size: int, seconds: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "recall@100_vs_exact": recall,
        "p50_ms": p50,
        "p99_ms": p99,
        "bytes": size,
        "build_seconds": round(seconds, 3),
    }


def _point(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "build_seconds"}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def load_index(folder: str | Path, kind: str) -> CandidateIndex:
    """The index of a kind from a folder that `build_indexes` wrote, ready to search or to be exported.

    Raises:
        ValueError: unknown kind. FileNotFoundError: no index of that kind was built there.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: must be one of {KINDS}, received {kind!r}")
    if not (Path(folder) / kind / "saved_model.pb").is_file():
        raise FileNotFoundError(f"folder: {folder} holds no {kind} index; run the index stage with that kind first")
    if kind == "exact":
        return ExactIndex.restore(Path(folder) / kind)
    from serving.scann_index import ScannIndex

    return ScannIndex.restore(Path(folder) / kind)
