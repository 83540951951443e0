"""Vocabularies that only grow: a newly ingested dataset in the rows and codes of the one before, new ids behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import ATTRIBUTE, CONTEXT, NEVER, PROFILE, Dataset, train_counts
from data.ingest import IngestOptions, ingest
from data.schema import TEST, TRAIN, VALID
from data.splits import DAY, newest_time
from data.validation import DatasetError
from pipeline.settings.config import DataConfig

NOBODY = np.zeros(0, np.int64)


def ingest_newest(
    source: Path,
    out: Path,
    section: DataConfig,
    previous: Dataset | None,
    test_days: int,
    valid_days: int,
    setting: str = "valid_days",
) -> Dataset:
    """A dataset folder in the rows and codes of the dataset before it, split by its newest days.

    Args:
        out: folder that `ingest` writes into. previous: None = rows begin anew. test_days, valid_days, setting: see
            `split_newest`.
    """
    since = None if previous is None else newest_time(previous.events["timestamp"].to_numpy())
    options = IngestOptions(**{**section.model_dump(), "split": "global_time"})
    dataset = ingest(source, out, options, since=since, previous=previous)
    if previous is not None:
        dataset = grow_dataset(dataset, previous)
    return split_newest(dataset, test_days, valid_days, setting)


def grow_dataset(fresh: Dataset, previous: Dataset) -> Dataset:
    """The new dataset, numbered so that whatever the previous one knew keeps its number.

    Rows of users and items, and codes of profile, attributes and context: those of `previous` stay, new ones follow in the
    order of `fresh`. An id that is gone from the new folder keeps its row and what was known of it, for models and servers
    may still name it; nobody else ever gets that row. An item that is gone is never released (`data.dataset.NEVER`), until a
    folder lists it again: no list of the job has it, and nothing that serves answers it.

    Example: `previous` knows items a, b; `fresh` lists c, b. Rows become a 1, b 2, c 3.
    """
    user_map, users, gone = _grown(fresh.users, previous.users, "user_id")
    profile, people = _recoded(users, PROFILE, fresh.profile_vocabulary, previous.profile_vocabulary, gone)
    item_map, items, gone = _grown(fresh.items, previous.items, "item_id")
    if "created_at" in items:
        items.loc[gone, "created_at"] = NEVER
    attributes, catalogue = _recoded(items, ATTRIBUTE, fresh.attribute_vocabulary, previous.attribute_vocabulary, gone)
    context, events = _recoded(fresh.events, CONTEXT, fresh.context_vocabulary, previous.context_vocabulary, NOBODY)
    renumbered = {name: map_[events[name].to_numpy()].astype(np.int32) for name, map_ in
                  (("user", user_map), ("item", item_map))}  # fmt: skip
    events = events.assign(**renumbered)
    order = np.lexsort((events["timestamp"].to_numpy(), events["user"].to_numpy()))
    events = events.iloc[order].reset_index(drop=True)
    schema = dataclasses.replace(
        fresh.schema,
        user_rows=len(people),
        item_rows=len(catalogue),
        profile={name: len(values) for name, values in profile.items()},
        attributes={name: len(values) for name, values in attributes.items()},
        context={name: len(values) for name, values in context.items()},
    )
    grown = {"users": len(people) - len(previous.users), "items": len(catalogue) - len(previous.items)}
    dataset = dataclasses.replace(
        fresh,
        schema=schema,
        users=people,
        items=catalogue,
        events=events,
        counts=train_counts(events, len(catalogue)),
        profile_vocabulary=profile,
        attribute_vocabulary=attributes,
        context_vocabulary=context,
        report={**fresh.report, "users": len(people) - 1, "items": len(catalogue) - 1, "grown": grown},
    )
    check_same_rows(dataset, previous)
    dataset.check()
    return dataset


def check_same_rows(grown: Dataset, previous: Dataset) -> None:
    """Refuses a dataset in which an id of the previous one has another row.

    Raises:
        DatasetError: names the first such id.
    """
    for table, key in (("users", "user_id"), ("items", "item_id")):
        before, after = (getattr(part, table)[key].to_numpy(dtype=object) for part in (previous, grown))
        moved = np.flatnonzero(before[: len(after)] != after[: len(before)]) if len(after) >= len(before) else [len(after)]
        if len(moved):
            row = int(moved[0])
            raise DatasetError(
                f"{table}: an id must keep its row from release to release, row {row} was {before[row]!r} and is "
                f"{after[row] if row < len(after) else 'gone'!r}. Start from the release before, or train into a new folder."
            )


def split_newest(dataset: Dataset, test_days: int, valid_days: int, setting: str = "valid_days") -> Dataset:
    """The dataset split by days of 24 hours, counted back from the last event (`newest_time`: what is ahead of all
    others tests as well): the newest `test_days` test, `valid_days` before validate. Days of the calendar would leave a job
    that starts at 02:30 a test of two and a half hours.

    Where nobody chose anything in the days that should validate, as when a log goes on after a week of silence, those before
    the silence do: they are the days that the last release knew least of. `report` says of how many (`silent_days`).

    Args:
        setting: of `[job]` that `valid_days` comes from, for the error.

    Raises:
        DatasetError: a log without times, or one in which a part would hold no positive event.
    """
    if not dataset.schema.has_timestamps:
        raise DatasetError("job: needs the column `timestamp`, which interactions.parquet lacks; use `run` for such a log.")
    time = dataset.events["timestamp"].to_numpy()
    newest = newest_time(time)
    test = newest + 1 - test_days * DAY
    valid = test - valid_days * DAY
    chosen = time[dataset.positive & (time < test)]
    silent = (test - 1 - int(chosen.max())) // DAY if len(chosen) and chosen.max() < valid else 0
    valid -= silent * DAY
    split = np.where(time >= test, TEST, np.where(time >= valid, VALID, TRAIN)).astype(np.int8)
    for name, code, advice in (("train", TRAIN, "choose fewer days or bring more"), ("test", TEST, "choose more test_days")):
        if not (dataset.positive & (split == code)).any():
            raise DatasetError(
                f"job.test_days, job.{setting}: {test_days} and {valid_days} leave no positive event in the {name} part "
                f"of a log of {(newest - int(time.min())) // DAY + 1} days; {advice}."
            )
    events = dataset.events.assign(split=split)
    report = {**dataset.report, "split": "global_time", "silent_days": silent}
    return dataclasses.replace(
        dataset, events=events, counts=train_counts(events, dataset.schema.item_rows), report=report
    )


def _grown(fresh: pd.DataFrame, previous: pd.DataFrame, key: str) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Fresh row -> grown row [rows]; the grown table, previous rows first, as `fresh` has them where it does; and the rows
    that only the previous one has."""
    before, now = pd.Index(previous[key].astype(object)), pd.Index(fresh[key].astype(object))
    old = before.get_indexer(now)
    old[0] = 0
    new = np.flatnonzero(old < 0)
    rows = old.copy()
    rows[new] = len(before) + np.arange(len(new))
    table = fresh.iloc[np.argsort(rows, kind="stable")].set_index(np.sort(rows))
    gone = np.setdiff1d(np.arange(len(before)), rows)
    if len(gone):
        # Coded columns stay in the previous codes, which `_recoded` leaves alone for these rows.
        kept = previous.iloc[gone].set_index(gone).reindex(columns=fresh.columns)
        for name in kept.columns:
            kept[name] = (kept[name].fillna(0) if name not in previous else kept[name]).astype(fresh[name].dtype)
        table = pd.concat([table, kept]).sort_index()
    return rows, table.reset_index(drop=True), gone


def _recoded(
    table: pd.DataFrame,
    prefix: str,
    fresh: Mapping[str, list[str]],
    previous: Mapping[str, list[str]],
    gone: np.ndarray,
) -> tuple[dict[str, list[str]], pd.DataFrame]:
    """Vocabularies of the fresh columns with the previous values first, and the table in their codes; rows that are `gone`
    from the fresh one have previous codes already. Columns come in the previous order, new ones behind: a model knows those
    that it joins by their places."""
    vocabularies, columns = {}, {}
    names = [*(name for name in previous if name in fresh), *(name for name in fresh if name not in previous)]
    for name in names:
        values = fresh[name]
        before = previous.get(name, [""])
        known = {value: code for code, value in enumerate(before)}
        codes = table[prefix + name].to_numpy()
        if values[: len(before)] == before:  # as an ingestion that knew them has coded it
            vocabularies[name], columns[prefix + name] = values, codes.astype(np.int32)
            continue
        grown = [*before, *(value for value in values if value not in known)]
        place = {value: code for code, value in enumerate(grown)}
        recoded = np.array([place[value] for value in values], np.int32)[np.where(codes < len(values), codes, 0)]
        if len(gone) and name in previous:
            recoded[gone] = codes[gone]
        vocabularies[name], columns[prefix + name] = grown, recoded
    return vocabularies, table.assign(**columns)
