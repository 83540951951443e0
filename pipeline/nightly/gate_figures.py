"""Figures of candidate and current release on the newest days: the same users, the same events, paired where it can be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import Schema
from pipeline.evaluation.exposure_quality import judge_exposure
from pipeline.evaluation.order_quality import task_targets
from pipeline.evaluation.probability_quality import NUMBERS, judge_probabilities
from pipeline.metrics.bootstrap import bootstrap_means
from pipeline.metrics.examples import Requests, make_requests
from pipeline.metrics.metrics import ndcg_at_k, recall_at_k
from pipeline.metrics.segments import MINIMUM_USERS, Segment, domain_groups, find_segments, popularity_groups
from pipeline.nightly.gate_contestants import Contestant, candidate_of, current_of
from pipeline.policy.stage import comparable_column
from pipeline.ranker.leak_checks import check_retrieval
from pipeline.ranker.lists import retrieve_fold
from pipeline.ranker.rank_requests import answer, order_by, propose
from pipeline.retrieval.served import served_folder, served_history_length
from pipeline.settings.config import Config
from pipeline.stages.ranking import ranking_config
from pipeline.training.epochs import Progress
from pipeline.training.record import read_records
from ranking.config import RankingConfig

FIGURES = "figures.json"
CUTOFF = 10
CANDIDATE, CURRENT = "candidate", "current"


def judge_job(
    dataset: Dataset, store: FeatureStore, run: Path, parent: Path | None, out: Path, config: Config, progress: Progress
) -> dict[str, Any]:
    """Ask both the same and write `figures.json` into `out`.

    `metrics` and `segments`: {name: {"candidate", "current", "difference", "low", "high", "users"}} with the 95 % interval
    of the paired difference over users; `calibration`: expected calibration error by head; `heads`: those that were
    trained; `gap`: NDCG of the best less that of the worst group of users, relative to the mean, and the low end of the
    interval of its growth; `exposure`: share of each group of items.

    A group of items in which none is new is judged among the items that both know: new ones, which the current release
    cannot recommend, take places in the candidate's lists by right.

    Args:
        parent: run folder of the current release; None = there is none, and its figures are left out.
    """
    known, settings = config.evaluation.mask_splits, ranking_config(config)
    check_retrieval(dataset, read_records(served_folder(run)), "test")
    lengths = [served_history_length(folder) for folder in (run, parent) if folder is not None]
    requests = make_requests(dataset, "test", known_splits=known, history_length=max(*lengths, settings.history_length))
    contestants = {CANDIDATE: candidate_of(dataset, run, config.index.kind)}
    if parent is not None:
        contestants[CURRENT] = current_of(dataset, parent)
    groups = {"items": popularity_groups(dataset.counts)}
    if (domains := domain_groups(dataset)) is not None:
        groups["domain"] = domains
    segments = [
        segment for segment in find_segments(dataset, requests.users, known, groups) if segment.dimension != "all"
    ]
    shared = dataset.schema.item_rows if parent is None else Schema.load(parent / "ingest" / "schema.json").item_rows
    found: dict[str, dict[str, Any]] = {}
    for number, (name, contestant) in enumerate(contestants.items()):
        progress(name, number, len(contestants))
        found[name] = judge(dataset, requests, contestant, settings, segments, known, shared)
        found[name]["exposure"] = judge_exposure(
            {"ranked": found[name].pop("ranked")}, requests.relevant, dataset.counts, groups, None
        )["groups"]
    progress(CURRENT, len(contestants), len(contestants))
    column = comparable_column(dataset, requests.users)
    metrics = paired(found, "metrics", config.gate.seed)
    result = {
        "users": len(requests.users),
        "new_items": int((dataset.counts[1:] == 0).sum()),
        "metrics": metrics,
        "segments": paired(found, "segments", config.gate.seed),
        "calibration": {name: part["calibration"] for name, part in found.items()},
        "heads": {name: list(contestant.heads) for name, contestant in contestants.items()},
        "gap": {name: gap_of(part["segments"], column) for name, part in found.items()}
        | {"low": gap_growth({name: part["segments"] for name, part in found.items()}, column, config.gate.seed)},
        "exposure": {
            name: {
                f"{dimension}: {group}": shares["ranked"]
                for dimension, parts in part["exposure"].items()
                for group, shares in parts.items()
            }
            for name, part in found.items()
        },
    }
    (out / FIGURES).write_text(json.dumps(result, indent=2))
    return {"users": len(requests.users), **{name: line[CANDIDATE] for name, line in metrics.items()}}


def judge(
    dataset: Dataset,
    requests: Requests,
    contestant: Contestant,
    settings: RankingConfig,
    segments: list[Segment],
    known: tuple[str, ...],
    shared: int,
) -> dict[str, Any]:
    """Each user's values of one contestant, {"metrics", "segments"}: {name: [Q]}, the calibration of its heads, and its
    ranked rows. `shared`: how many item rows both contestants know."""
    released = dataset.items["created_at"].to_numpy(np.int64)
    length = contestant.history_length
    ask = lambda users, history: contestant.query(users, history[:, :length])  # noqa: E731
    retrieved, scores = propose(requests, ask, contestant.search, settings, released)
    given = (requests.users, requests.history, retrieved, scores, requests.timestamps)
    told = answer(contestant.form, *given, context=requests.context)
    ranked = order_by(retrieved, told["score"])
    targets = task_targets(dataset, requests, "test")
    metrics: dict[str, NDArray] = {}
    for order, rows in (("retrieval", retrieved), ("ranked", ranked)):
        metrics |= {
            f"{order} recall@{k}": recall_at_k(rows, requests.relevant, k) for k in (20, 100) if k <= rows.shape[1]
        }
        for task, wanted in targets.items():
            name = f"{order} NDCG@{CUTOFF}" if task == "click" else f"{order} {task} NDCG@{CUTOFF}"
            metrics[name] = ndcg_at_k(rows, wanted, CUTOFF)
    values, places = {}, -np.arange(ranked.shape[1], dtype=np.float64)[None]
    for segment in segments:
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
    calibration = {head: figures["ece"] for head, figures in heads.items() if head not in NUMBERS}
    return {"metrics": metrics, "segments": values, "calibration": calibration, "ranked": ranked}


def paired(found: Mapping[str, Mapping[str, Any]], part: str, seed: int) -> dict[str, dict[str, Any]]:
    """Means of both, and their difference with its interval over the users that both have a value for."""
    mine = found[CANDIDATE][part]
    others = found[CURRENT][part] if CURRENT in found else {}
    lines: dict[str, dict[str, Any]] = {}
    for name, values in mine.items():
        users = int((~np.isnan(values)).sum())
        if users < MINIMUM_USERS and part == "segments":
            continue
        lines[name] = {CANDIDATE: mean(values), "users": users}
        if name in others:
            lines[name] |= {CURRENT: mean(others[name]), "difference": mean(values - others[name])}
    both = [name for name in lines if name in others]
    if both:
        table = np.stack([mine[name] - others[name] for name in both], axis=1)
        # Of twenty segments one is out of its interval by chance; theirs are wide enough for all together (Bonferroni).
        level = 1 - 0.05 / (len(both) if part == "segments" else 1)
        bounds = bootstrap_means(table, np.random.default_rng(seed), level=level, resamples=4000)
        for name, low, high in zip(both, *bounds, strict=True):
            lines[name] |= {"low": float(low), "high": float(high)}
    return lines


def gap_of(segments: Mapping[str, NDArray], column: str) -> float | None:
    """NDCG of the best served group of a profile column less that of the worst, by their mean; None without groups.

    Example:
        >>> gap_of({"age: a": np.array([0.25, np.nan]), "age: b": np.array([np.nan, 0.75]), "items: head": np.ones(2)}, "age")
        1.0
    """
    told = [mean(values) for name, values in segments.items() if column and name.startswith(f"{column}: ")]
    means = [value for value in told if value is not None]
    return (max(means) - min(means)) / max(float(np.mean(means)), 1e-12) if len(means) > 1 else None


def gap_growth(
    found: Mapping[str, Mapping[str, NDArray]], column: str, seed: int, resamples: int = 1000
) -> float | None:
    """The low end of the 95 % interval of the candidate's gap less the current one's, over resamples of the users; None where
    there are not both. The gap of a dozen small groups moves by half on a day by chance.

    Args:
        found: {contestant: {segment: [Q]}}.
    """
    names = [name for name in found[CANDIDATE] if column and name.startswith(f"{column}: ")]
    if CURRENT not in found or len(names) < 2:
        return None
    rng, gaps = np.random.default_rng(seed), []
    users = len(found[CANDIDATE][names[0]])
    weights = rng.multinomial(users, np.full(users, 1 / users), size=resamples).astype(np.float64)
    for contestant in (CANDIDATE, CURRENT):
        table = np.stack([found[contestant][name] for name in names], axis=1)
        defined = ~np.isnan(table)
        means = (weights @ np.where(defined, table, 0.0)) / np.maximum(weights @ defined, 1.0)
        gaps.append((means.max(axis=1) - means.min(axis=1)) / np.maximum(means.mean(axis=1), 1e-12))
    return float(np.quantile(gaps[0] - gaps[1], 0.025))


def mean(values: NDArray) -> float | None:
    """Over the users with a value; None without any."""
    return None if np.isnan(values).all() else float(np.nanmean(values))
