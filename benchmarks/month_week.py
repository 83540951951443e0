"""What a night's models are worth in the week that begins with it: more users than a day has, so less of it is chance."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.month_days import cut
from data.dataset import Dataset
from data.durable_file import write_durably
from pipeline.metrics.bootstrap import bootstrap_ratios
from pipeline.metrics.examples import make_requests
from pipeline.metrics.metrics import recall_at_k
from pipeline.nightly.gate_contestants import current_of
from pipeline.nightly.grow_vocabulary import ingest_newest
from pipeline.ranker.rank_requests import propose
from pipeline.settings.config import Config
from pipeline.stages.ranking import ranking_config

WEEK = 7
"""Days: the night's newest, of which its models have seen nothing, and six that were still to come."""
CUTOFF = 100


class Weeks:
    """The weeks that begin with the nights of a month, and what models were worth in them, in files of its folder.

    Args:
        folder: of the weeks. world: the whole world's folder. days_left: of the world after the newest day of each night.
    """

    def __init__(self, folder: Path, world: Path, days_left: Sequence[int], config: Config):
        self.folder, self.world, self.days_left, self.config = folder, world, days_left, config

    def ask(self, night: int, side: str, job: Path) -> None:
        """Write what the models in a job's folder are worth, unless it was written before: {user id: recall@100}."""
        if (file := self._file(night, side)).is_file():
            return
        week = cut(self.world, self.folder / f"{night:02d}", self.days_left[night], WEEK - 1)
        dataset = dataset_of(week, self.config, Dataset.load(job / "ingest"))
        write_durably(file, [json.dumps(recall_of(dataset, job, self.config)).encode()])

    def ratio(self, night: int, side: str, other: str) -> dict[str, Any]:
        """See `ratio_of`."""
        return ratio_of(*(json.loads(self._file(night, name).read_text()) for name in (side, other)))

    def _file(self, night: int, side: str) -> Path:
        return self.folder / f"{night:02d}-{side}.json"


def dataset_of(week: Path, config: Config, then: Dataset) -> Dataset:
    """A night's week in the rows of a job's dataset, all of its days held out."""
    with tempfile.TemporaryDirectory(prefix="triptych-week-") as out:
        return ingest_newest(week, Path(out), config.data, then, WEEK, config.job.valid_days)


def recall_of(dataset: Dataset, job: Path, config: Config) -> dict[str, float]:
    """Recall@100 of a job's retrieval, by user id, of what users chose in the held-out days."""
    models, settings = current_of(dataset, job), ranking_config(config)
    requests = make_requests(
        dataset, "test", known_splits=config.evaluation.mask_splits, history_length=models.history_length
    )
    released = dataset.items["created_at"].to_numpy(np.int64)
    rows, _ = propose(requests, models.query, models.search, settings, released)
    if rows.shape[1] < CUTOFF:
        raise SystemExit(f"month: ranking.retrieved must be {CUTOFF} at least, since recall@{CUTOFF} is what is compared")
    recall = recall_at_k(rows, requests.relevant, CUTOFF)
    ids = dataset.users["user_id"].to_numpy(object)[requests.users]
    return {str(name): float(value) for name, value in zip(ids, recall, strict=True) if np.isfinite(value)}


def ratio_of(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """Mean of one by mean of the other over the users of both, who are asked the same, and its 95 % interval by resampling
    them.

    Example:
        >>> ratio_of({"a": 0.5, "b": 0.7, "c": 0.0}, {"a": 0.5, "b": 0.5})
        {'ratio': 1.2, 'interval': [1.0, 1.4], 'users': 2}
    """
    users = sorted(one.keys() & other.keys())
    ours, theirs = (np.array([found[user] for user in users]) for found in (one, other))
    low, high = bootstrap_ratios(ours[:, None], theirs[:, None], np.random.default_rng(0))
    return {
        "ratio": round(float(ours.mean() / theirs.mean()), 4),
        "interval": [round(float(bound[0]), 4) for bound in (low, high)],
        "users": len(users),
    }
