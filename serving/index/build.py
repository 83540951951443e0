"""Building the indexes of a run: train, measure against exact search, choose, refuse what is not good enough, save."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving.index.index import CandidateIndex, ExactIndex, checked_table
from serving.index.measure import folder_bytes, measure_latency
from serving.index.partitioned_index import PartitionedIndex
from serving.index.tuning import POINTS_BEYOND, RecallJudge, TunedIndex, recall_key, tune_partitioned, tune_scann

KINDS = ("exact", "partitioned", "scann")
REPORT = "report.json"
REPORTED_K = 100

MEASURED_FROM, PARTITION_FROM = 1_000, 10_000
"""Items from which a partitioned index is built and measured beside the others, and from which it may be what answers: with
fewer, a hundred of them ask for half of its blocks."""

EXACT_BELOW = 50_000
"""Items below which `auto` takes exact search without asking further. Medians of exact search and of a partitioned index with
recall 0.98, width 64, one core: 0.27 and 0.34 ms for 20,000 items, 0.56 and 0.55 for 50,000, 1.20 and 0.62 for 100,000."""


class RecallBelowFloor(ValueError):
    """An index that loses more of the true neighbours than the configuration allows; nothing of it is saved."""


def build_indexes(
    item_embeddings: np.ndarray,
    queries: np.ndarray,
    out: str | Path,
    kind: str = "auto",
    *,
    scann: bool = True,
    recall_floor: float = 0.95,
    recall_target: float = 0.98,
    k: int = 500,
    exact_below: int = EXACT_BELOW,
    vectors: str = "float16",
    seed: int = 0,
    repeats: int = 200,
    points_beyond: int = POINTS_BEYOND,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Builds, measures and saves the indexes of a run into `<out>/<kind>/`, and `<out>/report.json` last.

    The exact index is always built; the partitioned one where it was asked for, or there are `MEASURED_FROM` items and the
    exact one was not asked for by name; ScaNN's where it is wanted. The effort of an approximate index is the least that
    reaches `recall_target` on one half of the queries; the recall reported is that of the other half. One below the floor is
    refused: it is not saved, and where it was asked for by name nothing is.

    Args:
        item_embeddings: f32 [N + 1, D], row 0 ignored.
        queries: f32 [Q, D], real query vectors, Q >= 1.
        out: folder to write into; made if need be.
        kind: the index that answers. "auto": partitioned from `exact_below` items on where its recall is no lower than
            the floor, else exact.
        scann: build ScaNN's index as well, for servers that have its operations.
        recall_floor: least recall@k against exact of an approximate index.
        recall_target: what the choice of effort aims at.
        k: neighbours compared; fewer in a small catalogue, a hundredth of it or 100.
        exact_below: see `kind`.
        vectors: see `PartitionedIndex.build`.
        seed: of the partitioned index.
        repeats: single queries timed for each figure. points_beyond: points of the trade-off behind the target.
        say: receives one line a step.

    Returns:
        The report: `kind`, the index that answers, with its `recall@100_vs_exact`, `recall@<k>_vs_exact`, `p50_ms`, `p99_ms`
        (of k), `bytes`, `build_seconds`; `stock_kind`, the one of core operations that a stock server gets, and `reason`,
        why that one; the same figures of every kind built under its name; `refused`, messages by kind; `recall_floor`,
        `recall_target`, `items`, `width`, `queries`, `k`; `trade_off`: rows with `kind`, `setting`, the recalls, `p50_ms`,
        `p99_ms`, `bytes`.

    Raises:
        ValueError: unknown kind, widths that differ, no queries, or see `serving.index.index.checked_table`.
        RecallBelowFloor: with the figures.
    """
    if kind not in ("auto", *KINDS):
        raise ValueError(f"kind: must be 'auto' or one of {KINDS}, received {kind!r}")
    table, queries, out = checked_table(item_embeddings), np.asarray(queries, np.float32), Path(out)
    if queries.ndim != 2 or not len(queries) or queries.shape[1] != table.shape[1]:
        raise ValueError(
            f"queries: need [Q, {table.shape[1]}] with Q >= 1 like item_embeddings, received shape {queries.shape}"
        )
    say = say or (lambda line: None)
    out.mkdir(parents=True, exist_ok=True)
    items = len(table) - 1
    k = min(k, max(REPORTED_K, items // 100), items)
    start = time.perf_counter()
    exact = ExactIndex(table)
    judge = RecallJudge(table, queries, exact, k, min(k, REPORTED_K))
    seconds = time.perf_counter() - start
    p50, p99 = measure_latency(exact, queries, k, repeats)
    exact.save(out / "exact")
    figures = {"kind": "exact", **dict.fromkeys(map(recall_key, (judge.reported_k, k)), 1.0), "p50_ms": p50, "p99_ms": p99}
    figures["bytes"] = folder_bytes(out / "exact")
    built, trade_off, refused = {"exact": {**figures, "build_seconds": round(seconds, 3)}}, [figures], {}
    say(f"exact index: {items} items, p50 {p50} ms")
    # A large table is not held twice; the compiled search refers back to its index, hence the collector.
    del exact
    gc.collect()

    tuners: dict[str, Callable[[], TunedIndex]] = {}
    if kind == "partitioned" or (kind != "exact" and items >= MEASURED_FROM):
        tuners["partitioned"] = lambda: tune_partitioned(judge, recall_target, vectors, seed, points_beyond)
    if kind == "scann" or scann:
        tuners["scann"] = lambda: tune_scann(judge, recall_target, points_beyond)
    for name, tune in tuners.items():
        try:
            built[name], rows = _build(tune, judge, out, recall_floor, repeats)
        except RecallBelowFloor as refusal:
            if name == kind:
                for folder in KINDS:
                    shutil.rmtree(out / folder, ignore_errors=True)
                raise
            refused[name] = str(refusal)
            say(refused[name])
        else:
            trade_off += rows
            say(f"{name} index: recall@{k} {built[name][recall_key(k)]:.4f}, p50 {built[name]['p50_ms']} ms")
        gc.collect()

    stock, reason = _stock_kind(kind, refused, items, max(exact_below, PARTITION_FROM), recall_floor)
    report = {
        **built["scann" if kind == "scann" else stock],
        **built,
        "stock_kind": stock,
        "reason": reason,
        "refused": refused,
        "recall_floor": recall_floor,
        "recall_target": recall_target,
        "items": items,
        "width": table.shape[1],
        "queries": len(queries),
        "k": k,
        "trade_off": trade_off,
    }
    say(f"{report['kind']} answers, {stock} on stock servers: {reason}")
    (out / REPORT).write_text(json.dumps(report, indent=2, sort_keys=True))
    return report


def _stock_kind(kind: str, refused: dict[str, str], items: int, least: int, floor: float) -> tuple[str, str]:
    """The kind that a stock server gets, and why that one."""
    if kind in ("exact", "partitioned"):
        return kind, "the settings ask for it"
    if items < least:
        return "exact", f"{items:,} items are fewer than {least:,}"
    if "partitioned" in refused:
        return "exact", refused["partitioned"]
    return "partitioned", f"{items:,} items are {least:,} or more, and its recall is no lower than {floor}"


def _build(
    tune: Callable[[], TunedIndex], judge: RecallJudge, out: Path, floor: float, repeats: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of an approximate index as it is saved, and of every effort that was tried."""
    start = time.perf_counter()
    tuned = tune()
    index, chosen = tuned.index, int(tuned.effort.numpy())
    recalls = judge.reported(index)
    seconds = time.perf_counter() - start
    least = recalls[recall_key(judge.k)]
    if least < floor:
        raise RecallBelowFloor(
            f"recall_floor: the {index.kind} index must find at least {floor} of the exact top {judge.k}, it found "
            f"{least:.4f} with {tuned.setting(chosen)} on {len(judge.queries[judge.held_out])} queries over "
            f"{len(judge.table) - 1} items; serve the exact index, or lower the floor"
        )
    rows, latency = [], None
    for effort, _ in tuned.points:
        tuned.effort.assign(max(effort, 1))
        is_chosen = max(effort, 1) == chosen
        reached = recalls if is_chosen else judge.reported(index)
        p50, p99 = measure_latency(index, judge.queries, judge.k, repeats)
        rows.append({"kind": index.kind, "setting": tuned.setting(effort), **reached, "p50_ms": p50, "p99_ms": p99})
        latency = (p50, p99) if is_chosen else latency
    tuned.effort.assign(chosen)
    p50, p99 = latency or measure_latency(index, judge.queries, judge.k, repeats)
    index.save(out / index.kind)
    size = folder_bytes(out / index.kind)
    if hasattr(index, "release"):
        index.release()
    figures = {"kind": index.kind, **recalls, "p50_ms": p50, "p99_ms": p99, "bytes": size}
    return {**figures, "build_seconds": round(seconds, 3), **tuned.settings}, [{**row, "bytes": size} for row in rows]


def load_index(folder: str | Path, kind: str = "auto") -> CandidateIndex:
    """An index from a folder that `build_indexes` wrote, ready to search or to be exported.

    Args:
        kind: one of `KINDS`; "auto" = the one that answers, "stock" = the one that a stock server gets.

    Raises:
        ValueError: unknown kind. FileNotFoundError: no index of that kind was built there.
    """
    if kind in ("auto", "stock"):
        report = read_report(folder)
        if "stock_kind" not in report:
            raise FileNotFoundError(f"folder: {folder} was built before indexes were chosen; run the index stage again")
        kind = report["kind" if kind == "auto" else "stock_kind"]
    if kind not in KINDS:
        raise ValueError(f"kind: must be 'auto', 'stock' or one of {KINDS}, received {kind!r}")
    if not (Path(folder) / kind / "saved_model.pb").is_file():
        raise FileNotFoundError(f"folder: {folder} holds no {kind} index; run the index stage with that kind first")
    if kind == "exact":
        return ExactIndex.restore(Path(folder) / kind)
    if kind == "partitioned":
        return PartitionedIndex.restore(Path(folder) / kind)
    from serving.index.scann_index import ScannIndex

    return ScannIndex.restore(Path(folder) / kind)


def read_report(folder: str | Path) -> dict[str, Any]:
    """What `build_indexes` returned.

    Raises:
        FileNotFoundError: no finished build there.
    """
    file = Path(folder) / REPORT
    if not file.is_file():
        raise FileNotFoundError(f"folder: {folder} holds no {REPORT}; run the index stage first")
    return json.loads(file.read_text())
