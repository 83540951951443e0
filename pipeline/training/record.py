"""What a retrieval model was trained on, kept beside it: how many pairs, up to when, and a digest of them."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.schema import SPLIT_CODES
from pipeline.metrics.examples import interactions
from pipeline.metrics.interactions import Interactions
from pipeline.stage import read_json

RECORDS = "trained_on.json"


def training_record(dataset: Dataset, trained: Interactions, splits: tuple[str, ...]) -> dict[str, Any]:
    """The record of a model.

    Args:
        trained: the pairs that the training read, as it read them. splits: where it was told to take them from.

    Returns: `splits`, `pairs` (their number), `digest` (of the set of pairs) and `last_timestamp` (UTC seconds of the last
        positive event of the splits, 0 without times).
    """
    events = dataset.events[dataset.positive & dataset.events["split"].isin([SPLIT_CODES[name] for name in splits])]
    last = int(events["timestamp"].max()) if len(events) and dataset.schema.has_timestamps else 0
    return {
        "splits": list(splits),
        "pairs": len(trained.rows),
        "digest": pairs_digest(trained),
        "last_timestamp": last,
    }


def pairs_digest(pairs: Interactions) -> str:
    """Short sha256 of a set of (user, item) pairs, in whatever order they were given.

    Example:
        >>> one = Interactions.from_pairs([1, 2, 1], [5, 6, 5], users=3)
        >>> pairs_digest(one) == pairs_digest(Interactions.from_pairs([2, 1], [6, 5], users=3))
        True
    """
    columns = (np.asarray(pairs.users, np.int64), np.asarray(pairs.rows, np.int64))
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16]


def splits_of(dataset: Dataset, digest: str) -> tuple[str, ...] | None:
    """The splits whose positive pairs have this digest; None if no union of splits has."""
    for count in range(1, len(SPLIT_CODES) + 1):
        for splits in itertools.combinations(SPLIT_CODES, count):
            if pairs_digest(interactions(dataset, splits)) == digest:
                return splits
    return None


def write_records(folder: Path, records: list[dict[str, Any]]) -> None:
    """Put the records of all models that a folder's own is made of beside it."""
    (folder / RECORDS).write_text(json.dumps(records, indent=2))


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder; none where nobody wrote any."""
    return read_json(folder / RECORDS, [])
