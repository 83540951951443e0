"""One side of the release gate on the newest days: what its lists are worth to each user, and how its heads are calibrated."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from data.schema import Schema
from pipeline.evaluation.exposure_quality import judge_exposure
from pipeline.evaluation.order_quality import task_targets
from pipeline.evaluation.probability_quality import judge_probabilities
from pipeline.metrics.examples import make_requests
from pipeline.metrics.metrics import ndcg_at_k, recall_at_k
from pipeline.metrics.segments import domain_groups, find_segments, popularity_groups
from pipeline.nightly.gate_contestants import Contestant, current_of
from pipeline.ranker.lists import retrieve_fold
from pipeline.ranker.rank_requests import answer, order_by, propose
from pipeline.settings.config import Config
from pipeline.stages.ranking import ranking_config
from pipeline.stages.walk import Run
from ranking.config import NUMBERS

CUTOFF = 10
NICENESS = 5
"""Of the process that judges the current release: the job and whatever else works for it go first."""


def judge(dataset: Dataset, contestant: Contestant, config: Config, shared: int) -> dict[str, Any]:
    """Ask one contestant what everybody with an event on the newest days would have asked.

    Args:
        shared: how many item rows both contestants know.

    Returns: `users` [Q] that were asked; `metrics` and `segments`, {name: [Q]}; `calibration`, {head: expected calibration
        error}; `exposure`, {group of items: share}; `heads`, those that were trained.
    """
    known, settings = config.evaluation.mask_splits, ranking_config(config)
    released = dataset.items["created_at"].to_numpy(np.int64)
    length = contestant.history_length
    requests = make_requests(dataset, "test", known_splits=known, history_length=max(length, contestant.ranker_history))
    ask = lambda users, history: contestant.query(users, history[:, :length])  # noqa: E731
    retrieved, scores = propose(requests, ask, contestant.search, settings, released)
    given = (requests.users, requests.history, retrieved, scores, requests.timestamps)
    told = answer(contestant.form, *given, context=requests.context)
    ranked = order_by(retrieved, told["score"])
    targets = task_targets(dataset, requests)
    metrics: dict[str, NDArray] = {}
    for order, rows in (("retrieval", retrieved), ("ranked", ranked)):
        metrics |= {
            f"{order} recall@{k}": recall_at_k(rows, requests.relevant, k) for k in (20, 100) if k <= rows.shape[1]
        }
        for task, wanted in targets.items():
            name = f"{order} NDCG@{CUTOFF}" if task == "click" else f"{order} {task} NDCG@{CUTOFF}"
            metrics[name] = ndcg_at_k(rows, wanted, CUTOFF)
    groups = {"items": popularity_groups(dataset.counts)}
    if (domains := domain_groups(dataset)) is not None:
        groups["domain"] = domains
    values, places = {}, -np.arange(ranked.shape[1], dtype=np.float64)[None]
    for segment in find_segments(dataset, requests.users, known, groups):
        if segment.dimension == "all":
            continue
        wanted = requests.relevant if segment.items is None else requests.relevant.restrict(segment.items)
        old = segment.items is not None and not segment.items[shared:].any()
        column = ndcg_at_k(order_by(np.where(ranked < shared, ranked, 0), places) if old else ranked, wanted, CUTOFF)
        values[f"{segment.dimension}: {segment.name}"] = (
            column if segment.users is None else np.where(segment.users[requests.users], column, np.nan)
        )
    fold = retrieve_fold(
        dataset, "test", contestant.query, contestant.search, settings, known_splits=known, query_history=length
    )
    lists = fold.lists(dataset, contestant.item_embeddings, settings, [settings.seed, 0])
    asked = (lists.user, lists.history, lists.candidates, lists.retrieval_scores, lists.timestamp)
    probabilities = answer(contestant.form, *asked, lists.retrieval_ranks, lists.context)
    heads = judge_probabilities(probabilities, lists, contestant.heads, [])
    exposed = judge_exposure({"ranked": ranked}, requests.relevant, dataset.counts, groups, None)["groups"]
    return {
        "users": requests.users,
        "metrics": metrics,
        "segments": values,
        "calibration": {head: figures["ece"] for head, figures in heads.items() if head not in NUMBERS},
        "exposure": {
            f"{dimension}: {group}": shares["ranked"]
            for dimension, parts in exposed.items()
            for group, shares in parts.items()
        },
        "heads": list(contestant.heads),
    }


def rows_shared(dataset: Dataset, parent: Path | None) -> int:
    """How many item rows a job's dataset shares with the run that the current release came from; all, where there is none."""
    return dataset.schema.item_rows if parent is None else Schema.load(parent / "ingest" / "schema.json").item_rows


def judge_current(
    source: Path, folder: Path, config: Config, parent: Path, *, ready: Callable[[], Any]
) -> dict[str, Any]:
    """What `judge` says of the current release, in a process beside the job's, which trains the candidate meanwhile: the
    current release is asked what is known before there is one."""
    os.nice(NICENESS)
    dataset = Run(source, folder, config, lambda line: None).dataset()
    return judge(dataset, current_of(dataset, parent), config, rows_shared(dataset, parent))
