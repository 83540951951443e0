"""Putting a release together: both retrieval models, the ranking model, warm-up records, configs, manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.export_ranking import RankingModule
from serving.export_retrieval import RetrievalModule
from serving.index import CandidateIndex
from serving.models_config import ModelEntry, write_models_config, write_monitoring_config
from serving.release import Release, publish, verify_release
from serving.request_history import ServingTables
from serving.warmup import write_warmup

RETRIEVAL, RETRIEVAL_SCANN, RANKING = "retrieval", "retrieval_scann", "ranking"
WARM_UP_SIZES = (1, 8)
"""Batch sizes that the records warm; a graph has no static shapes, so others run at the same speed."""


def export_release(
    releases: str | Path,
    version: int,
    *,
    tables: ServingTables,
    user_tower: Any,
    index: CandidateIndex,
    approximate_index: CandidateIndex | None,
    ranker: Any,
    k: int = 100,
    counts: Mapping[str, int] | None = None,
    details: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Release:
    """Writes `<releases>/<version>/`, whole or not at all. The same inputs give the same files and fingerprint.

    `models.config` names the models that the stock TF Serving image can load; `models_scann.config` adds
    `retrieval_scann` for a server that has ScaNN's operations.

    Args:
        releases: the folder of releases. version: a number not yet published.
        tables: see `ServingTables`.
        user_tower, index, approximate_index: see `RetrievalModule`; without the approximate index, `retrieval_scann`
            is left out.
        ranker: see `RankingModule`.
        k: candidates a warm-up request asks for and ranks.
        counts, details: for the manifest; keep seconds and dates out of `details` if two runs' manifests are to be
            equal.
        say: receives one line a model.

    Raises:
        ReleaseError: the version exists already. ValueError: tables, tower and index do not belong together.
    """
    say = say or (lambda line: None)
    chosen = {RETRIEVAL: index, **({RETRIEVAL_SCANN: approximate_index} if approximate_index is not None else {})}
    facts = {"users": len(tables.profile) - 1, "items": index.item_rows - 1, **(counts or {})}
    with publish(Path(releases), version, counts=facts, details=dict(details or {})) as staging:
        for name, one in chosen.items():
            start = time.perf_counter()
            folder = staging / name / str(version)
            RetrievalModule(tables, user_tower, one).save(folder)
            write_warmup(folder, name, retrieval_requests(tables, k))
            say(f"{name}: {one.kind} index, {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        folder = staging / RANKING / str(version)
        RankingModule(tables, ranker).save(folder)
        write_warmup(folder, RANKING, ranking_requests(tables, k))
        say(f"{RANKING}: {time.perf_counter() - start:.1f} s")
        entries = {
            name: ModelEntry(name, versions=(version,), labels={"stable": version}) for name in (*chosen, RANKING)
        }
        write_models_config(staging / "models.config", [entries[RETRIEVAL], entries[RANKING]])
        if RETRIEVAL_SCANN in entries:
            write_models_config(staging / "models_scann.config", list(entries.values()))
        write_monitoring_config(staging / "monitoring.config")
    return verify_release(Path(releases) / str(version))


def _some_ids(path: Path, count: int) -> list[bytes]:
    """The first ids of a vocabulary, repeated where there are fewer."""
    with path.open("rb") as lines:
        next(lines, None)
        ids = [line.rstrip(b"\n") for _, line in zip(range(count), lines, strict=False)] or [b""]
    return [ids[place % len(ids)] for place in range(count)]


def _strings(values: list[bytes], *shape: int) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def retrieval_requests(tables: ServingTables, k: int) -> list[dict[str, np.ndarray]]:
    """Warm-up requests at real shapes: stored history, given history with exclusions, and an unknown user with
    nothing."""
    length = tables.history.shape[1]
    requests = []
    for size in WARM_UP_SIZES:
        known = _strings(_some_ids(tables.user_ids, size), size)
        unknown = _strings([b""] * size, size)
        recent = _strings(_some_ids(tables.item_ids, size * length), size, length)
        nothing = _strings([], size, 0)
        for user, history, excluded in (
            (known, nothing, nothing),
            (known, recent, recent),
            (unknown, nothing, nothing),
        ):
            inputs = {"user_id": user, "recent_item_ids": history, "exclude_item_ids": excluded}
            requests.append({**inputs, "k": np.array(k, np.int32)})
    return requests


def ranking_requests(tables: ServingTables, k: int) -> list[dict[str, np.ndarray]]:
    """Warm-up requests at real shapes: k candidates for known and unknown users, with stored and given history."""
    length = tables.history.shape[1]
    requests = []
    for size in WARM_UP_SIZES:
        candidates = _strings(_some_ids(tables.item_ids, size * k), size, k)
        scores = np.tile(np.linspace(1, 0, k, dtype=np.float32), (size, 1))
        for users, width in ((_some_ids(tables.user_ids, size), 0), ([b""] * size, length)):
            recent = _strings(_some_ids(tables.item_ids, size * width), size, width)
            inputs = {"user_id": _strings(users, size), "recent_item_ids": recent, "candidate_ids": candidates}
            requests.append({**inputs, "retrieval_scores": scores, "timestamp": np.full(size, 1_700_000_000, np.int64)})
    return requests
