"""An ingested dataset as a log again, and with events added or left out: what retraining on an attacked log needs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from data.dataset import CONTEXT, OPTIONAL_EVENT_COLUMNS, Dataset, train_counts
from data.schema import EVENT_CODES, EVENT_KINDS, TRAIN


def training_log(dataset: Dataset) -> pd.DataFrame:
    """The training events in the columns of `interactions.parquet`: what an attacker adds to."""
    events = dataset.events[dataset.events["split"] == TRAIN]
    columns = {
        "user_id": dataset.users["user_id"].to_numpy(dtype=object)[events["user"]],
        "item_id": dataset.items["item_id"].to_numpy(dtype=object)[events["item"]],
        "event": np.array(EVENT_KINDS, dtype=object)[events["event"]],
        "value": events["value"].to_numpy(),
    }
    if dataset.schema.has_timestamps:
        columns["timestamp"] = events["timestamp"].to_numpy()
    return pd.DataFrame(columns)


def with_training_events(dataset: Dataset, rows: pd.DataFrame) -> Dataset:
    """The dataset with the events of new users in its training split; nobody else's row changes.

    Args:
        rows: as `training_log`; users must be new, items known. A kind of event is positive where the dataset's is.

    Raises:
        ValueError: an item that the dataset does not know.
    """
    names = pd.unique(rows["user_id"])
    items = dataset.item_ids.rows(rows["item_id"].to_numpy(dtype=object))
    if not items.all():
        raise ValueError(f"rows: must name known items, received {rows['item_id'].iloc[int((items == 0).argmax())]!r}")
    kinds = rows["event"].map(EVENT_CODES).to_numpy()
    wanted = dataset.events.groupby("event")["positive"].max()
    first = dataset.schema.user_rows
    added = {
        "user": first + pd.Index(names).get_indexer(pd.Index(rows["user_id"])),
        "item": items,
        "timestamp": rows.get("timestamp", 0),
        "event": kinds,
        "value": rows["value"].to_numpy(),
        "split": TRAIN,
        "positive": wanted.reindex(kinds, fill_value=True).to_numpy(bool),
        **{CONTEXT + name: 0 for name in dataset.schema.context},
        **{name: 0 if kind == "int32" else np.nan for name, kind in OPTIONAL_EVENT_COLUMNS.items()},
    }
    frame = pd.DataFrame({str(name): added[str(name)] for name in dataset.events}, index=range(len(rows)))
    frame = frame.astype(dataset.events.dtypes).sort_values(["user", "timestamp"], kind="stable")
    users = pd.DataFrame({"user_id": names}).reindex(columns=dataset.users.columns, fill_value=0)
    return _with(
        dataset,
        pd.concat([dataset.events, frame], ignore_index=True),
        users=pd.concat([dataset.users, users.astype(dataset.users.dtypes)], ignore_index=True),
        schema=dataclasses.replace(dataset.schema, user_rows=first + len(names)),
    )


def without_users(dataset: Dataset, flagged: np.ndarray) -> Dataset:
    """The dataset without the training events of some users, whose rows stay. flagged: bool [user rows]"""
    gone = flagged[dataset.events["user"].to_numpy()] & (dataset.events["split"].to_numpy() == TRAIN)
    return _with(dataset, dataset.events[~gone].reset_index(drop=True))


def _with(dataset: Dataset, events: pd.DataFrame, **parts) -> Dataset:
    counts = train_counts(events, dataset.schema.item_rows)
    return dataclasses.replace(dataset, events=events, counts=counts, folder=None, **parts)
