"""Reading `interactions.parquet`: every row is accepted, or quarantined under its first fault."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from data.columns import IdColumn, read_ids, read_numbers, read_parquet, read_timestamps, read_words
from data.schema import DEFAULT_EVENT, EVENT_CODES, SPLIT_CODES
from data.validation import Quarantine, RowChecks

FILE = "interactions.parquet"
READ_COLUMNS = ("user_id", "item_id", "timestamp", "event", "value", "split")
ALWAYS_VALUED = "rating"


@dataclasses.dataclass(frozen=True)
class Interactions:
    """The accepted events in file order, E of them.

    Attributes:
        users, items: ids as codes into distinct values; values may be left that no accepted event uses.
        timestamps: int64 [E], 0 if the log has none.
        events: int8 [E]. values: float32 [E], NaN if none.
        split: int8 [E] if the log carries a split and it was asked for.
        has_timestamps: whether the log has them.
        counts: rows read, accepted, quarantined. reasons: rows refused by each rule. ignored: unused columns.
    """

    users: IdColumn
    items: IdColumn
    timestamps: np.ndarray
    events: np.ndarray
    values: np.ndarray
    split: np.ndarray | None
    has_timestamps: bool
    counts: dict[str, int]
    reasons: dict[str, int]
    ignored: dict[str, str]


def read_interactions(
    source: Path, quarantine: Quarantine, *, known_items: np.ndarray | None, latest: int, with_split: bool | None
) -> Interactions:
    """Read and check the log of a dataset folder.

    A missing value is a fault only where values are the rule: in events of the kind `rating`, and in kinds of which at
    least half carry one. (A NaN is always a fault; Parquet writers such as pandas turn it into a missing value.)

    Args:
        source: the dataset folder.
        quarantine: receives the refused rows.
        known_items: item ids of the catalogue (object [N]); None = there is no catalogue, every item is known.
        latest: the last believable moment in UTC seconds.
        with_split: whether the column `split` is needed; None = if the log has it.
    """
    required = ["user_id", "item_id", *(["split"] if with_split else [])]
    table = read_parquet(source / FILE, required, quarantine)
    checks = RowChecks(table.num_rows)
    users, items = read_ids(table, "user_id", checks), read_ids(table, "item_id", checks)
    if known_items is not None:
        known = pd.Index(known_items, dtype=object).get_indexer(pd.Index(items.values, dtype=object)) >= 0
        absent = ~known[items.codes] if len(known) else np.zeros(table.num_rows, np.bool_)
        checks.refuse(absent & (items.codes >= 0), "item_id: not in items.parquet")
    timestamps = _timestamps(table, checks, latest)
    events = _codes(table, "event", EVENT_CODES, DEFAULT_EVENT, checks)
    values = _values(table, events, checks)
    split = None
    if with_split or (with_split is None and "split" in table.column_names):
        numbered = {str(code): code for code in SPLIT_CODES.values()}
        split = _codes(table, "split", SPLIT_CODES | numbered, "", checks)
    _refuse_repeated(checks, users, items, timestamps, events)

    refused, reasons = checks.refused()
    quarantine.add_rows(FILE, table, refused, reasons)
    keep = checks.accepted
    unused = [name for name in table.column_names if name not in READ_COLUMNS or (name == "split" and split is None)]
    return Interactions(
        users=IdColumn(users.codes[keep], users.values),
        items=IdColumn(items.codes[keep], items.values),
        timestamps=timestamps[keep],
        events=events[keep],
        values=values[keep],
        split=None if split is None else split[keep],
        has_timestamps="timestamp" in table.column_names,
        counts={"read": table.num_rows, "accepted": int(keep.sum()), "quarantined": len(refused)},
        reasons=checks.counts(),
        ignored={name: "not used by the models" for name in unused},
    )


def _timestamps(table: pa.Table, checks: RowChecks, latest: int) -> np.ndarray:
    if "timestamp" not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    timestamps, bad = read_timestamps(table, "timestamp")
    checks.refuse(bad, "timestamp: missing or not a time in UTC seconds")
    checks.refuse(timestamps < 0, "timestamp: negative")
    checks.refuse(timestamps > latest, "timestamp: in the future (milliseconds instead of seconds?)")
    return timestamps


def _codes(table: pa.Table, name: str, codes: dict[str, int], default: str, checks: RowChecks) -> np.ndarray:
    """int8 codes of a column with few values; an unknown word is refused, a missing column is the default."""
    if name not in table.column_names:
        return np.full(table.num_rows, codes[default], np.int8)
    of_row, words = read_words(table, name)
    of_word = np.array([codes.get(word.strip().lower(), -1) for word in words] + [-1], np.int8)
    result = of_word[of_row]
    checks.refuse(result < 0, f"{name}: must be among {', '.join(word for word in codes if not word.isdigit())}")
    return result


def _values(table: pa.Table, events: np.ndarray, checks: RowChecks) -> np.ndarray:
    if "value" not in table.column_names:
        return np.full(table.num_rows, np.nan, np.float32)
    numbers = read_numbers(table, "value")
    with np.errstate(over="ignore"):
        values = numbers.values.astype(np.float32)
    checks.refuse(numbers.bad | (~numbers.missing & ~np.isfinite(values)), "value: NaN, infinite or not a number")
    for code in np.unique(events[events >= 0]):
        kind = events == code
        lacking = kind & numbers.missing
        if code == EVENT_CODES[ALWAYS_VALUED] or 2 * lacking.sum() <= kind.sum():
            checks.refuse(lacking, "value: missing (NaN) in a kind of event that carries one")
    return values


def _refuse_repeated(
    checks: RowChecks, users: IdColumn, items: IdColumn, timestamps: np.ndarray, events: np.ndarray
) -> None:
    """Refuse every accepted row that says the same as an earlier accepted one."""
    rows = np.flatnonzero(checks.accepted)
    columns = {"user": users.codes, "item": items.codes, "timestamp": timestamps, "event": events}
    repeated = pd.DataFrame({name: values[rows] for name, values in columns.items()}).duplicated().to_numpy()
    mask = np.zeros(len(timestamps), np.bool_)
    mask[rows[repeated]] = True
    checks.refuse(mask, "duplicate: same user, item, event and timestamp as an earlier row")
