"""One batch over several replicas: which rows each works on, so that all of them share the negatives of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

SHARED = ("columns", "copies")
"""What every replica keeps whole: the columns are what all queries are compared with."""
FILLED = ("items", *SHARED)
"""Axes that padding may lengthen: row 0 among items, a column without copies."""


def filled_for(batch: Mapping[str, np.ndarray], replicas: int) -> dict[str, np.ndarray]:
    """A batch of `data.batches` whose items and columns divide by the number of replicas, padded at the end.

    Errors: ValueError where the events do not divide: a padded event would have to be one of the batch's own.

    Example:
        >>> batch = {"user": np.ones(4), "items": np.array([0, 5, 7]), "columns": np.arange(3), "copies": np.ones(3)}
        >>> {name: len(value) for name, value in filled_for(batch, 2).items()}
        {'user': 4, 'items': 4, 'columns': 4, 'copies': 4}
    """
    events = len(batch["user"])
    if events % replicas:
        raise ValueError(
            f"batch_size: must be a multiple of the replicas, received {events} events for {replicas} replicas; change "
            "retrieval.batch_size or train on fewer devices"
        )
    filled = dict(batch)
    for name in FILLED:
        spare = -len(batch[name]) % replicas
        filled[name] = np.pad(batch[name], (0, spare)) if spare else batch[name]
    return filled


def part_of(batch: Mapping[str, Any], replica: Any, replicas: int) -> dict[str, Any]:
    """What one replica computes of a batch: its share of the events and of the distinct items.

    The events keep their own columns, their users' other positives and the columns' copies and rows, which are those of
    the joined batch; once the item embeddings of all replicas stand one after the other, positions among items mean the
    same everywhere. The loss of a part, a weighted mean over its events, counts by `share`, the part's weight over the
    batch's: the losses of all parts then add up to that of the joined batch, and so do the gradients.

    Args:
        batch: from `filled_for`. replica: number of this one, from 0; may be a tensor. replicas: R.

    Returns: the batch with B / R events and U / R items, and beside it `column_rows` [C] and `share`, a scalar.

    Example:
        >>> batch = {"items": ops.array([0, 5, 7, 9]), "columns": ops.array([1, 2]), "copies": ops.ones(2)}
        >>> part = part_of(batch | {"own": ops.array([0, 1]), "weight": ops.array([1.0, 3.0])}, 1, 2)
        >>> {name: ops.convert_to_numpy(part[name]).tolist() for name in ("items", "own", "column_rows", "share")}
        {'items': [7, 9], 'own': [1], 'column_rows': [5, 7], 'share': 0.75}
    """
    part = {name: value if name in SHARED else _slice(value, replica, replicas) for name, value in batch.items()}
    part["column_rows"] = ops.take(batch["items"], batch["columns"])
    part["share"] = ops.sum(part["weight"]) / ops.maximum(ops.sum(batch["weight"]), 1e-9)
    return part


def _slice(values: Any, replica: Any, replicas: int) -> Any:
    """Part number `replica` of equal parts along the first axis; a tensor's known lengths stay known."""
    length, *rest = ops.shape(values)
    return ops.take(ops.reshape(values, (replicas, length // replicas, *rest)), replica, axis=0)
