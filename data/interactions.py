"""Reading `interactions.parquet`: every row is accepted, or quarantined under its first fault.

Beside the columns with a meaning of their own, any other column is *context*: what was known when an item was shown, such
as the device. `review`, the buyer's words after the fact, is none, and `context` names the others where a log mixes both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from data.categorical import Coding, code_table
from data.columns import IdColumn, read_ids, read_numbers, read_parquet, read_timestamps, read_words
from data.pseudonyms import MARK, Pseudonyms, marked
from data.schema import DEFAULT_EVENT, EVENT_CODES, SPLIT_CODES
from data.validation import Quarantine, RowChecks

FILE = "interactions.parquet"
PLACED = ("position", "propensity", "place_propensity")
"""Columns of where on its page, and with which probability, an item was shown."""
READ_COLUMNS = ("user_id", "item_id", "timestamp", "event", "value", "split", MARK, *PLACED)
AFTERWARDS = frozenset({"review"})
"""Columns that are known only after the event: never its context."""
MOST_PLACES = 2**31 - 1
ALWAYS_VALUED = "rating"
REPEATED = "duplicate: same user, item, event and timestamp as an earlier row"
GONE = "item_id: no longer in items.parquet"
UNDATED = -1
"""The time of a refused row that names none."""


@dataclasses.dataclass(frozen=True)
class Interactions:
    """The accepted events in file order, E of them.

    Attributes:
        users, items: ids as codes into distinct values; values may be left that no accepted event uses.
        timestamps: int64 [E], 0 if the log has none.
        events: int8 [E]. values: float32 [E], NaN if none.
        split: int8 [E] if the log carries a split and it was asked for.
        context: coded columns, codes [E] each.
        position: int32 [E], place on the page from 1, 0 unknown; None if the log has no such column. propensity: float32
            [E], probability of having been shown, NaN unknown; None likewise. place_propensity: that of having been chosen
            for this very place, given what stood above it.
        has_timestamps: whether the log has them.
        counts: rows read, accepted, quarantined. reasons: rows refused by each rule. ignored: unused columns.
        refused_times: int64 [Q] of the refused rows, `UNDATED` where that is no time. refused_reasons: their reasons.
    """

    users: IdColumn
    items: IdColumn
    timestamps: np.ndarray
    events: np.ndarray
    values: np.ndarray
    split: np.ndarray | None
    context: dict[str, Coding]
    position: np.ndarray | None
    propensity: np.ndarray | None
    place_propensity: np.ndarray | None
    has_timestamps: bool
    counts: dict[str, int]
    reasons: dict[str, int]
    ignored: dict[str, str]
    refused_times: np.ndarray
    refused_reasons: list[str]

    def rows_since(self, moment: int) -> dict[str, int]:
        """Rows later than a moment (UTC seconds): `read`, and of these `quarantined`, and of these `repeated`, and `gone`: of
        items that were taken out of the catalogue."""
        later = self.refused_times > moment
        of_reason = {name: np.array([one == reason for one in self.refused_reasons], np.bool_)
                     for name, reason in (("repeated", REPEATED), ("gone", GONE))}  # fmt: skip
        accepted, refused = int((self.timestamps > moment).sum()), int(later.sum())
        counts = {name: int((later & flags).sum()) for name, flags in of_reason.items()}
        return {"read": accepted + refused, "quarantined": refused, **counts}

    def select(self, keep: np.ndarray) -> Interactions:
        """The events of a mask [E]."""
        columns = {name: getattr(self, name) for name in ("timestamps", "events", "values", "split", *PLACED)}
        return dataclasses.replace(
            self,
            users=IdColumn(self.users.codes[keep], self.users.values),
            items=IdColumn(self.items.codes[keep], self.items.values),
            context={name: dataclasses.replace(coding, codes=coding.codes[keep]) for name, coding in self.context.items()},
            **{name: column[keep] for name, column in columns.items() if column is not None},
        )


def read_interactions(
    source: Path,
    quarantine: Quarantine,
    *,
    known_items: np.ndarray | None,
    latest: int,
    with_split: bool | None,
    context: tuple[str, ...] | None = None,
    columns: Collection[str] | None = None,
    pseudonyms: Pseudonyms | None = None,
    people: Collection[str] = (),
    known: Mapping[str, Sequence[str]] | None = None,
    before: np.ndarray | None = None,
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
        context: names of the context columns; None = every column that has no other meaning.
        columns: those that may be read beside `READ_COLUMNS`; None = all. pseudonyms: instead of the users' ids.
        people: the pseudonyms of `users.parquet`. known: vocabularies of the release before, by context column. before: the
            item ids that it had, object.
    """
    required = ["user_id", "item_id", *(["split"] if with_split else []), *(context or ())]
    only = None if columns is None else {*READ_COLUMNS, *columns}
    table = read_parquet(source / FILE, required, quarantine, only=only)
    sent = marked(table)
    table = table.drop_columns([name for name in table.column_names if name == MARK])
    if pseudonyms is not None:
        table = pseudonyms.in_column(table, "user_id", sent, people)
    checks = RowChecks(table.num_rows)
    users, items = read_ids(table, "user_id", checks), read_ids(table, "item_id", checks)
    if known_items is not None:
        listed = pd.Index(known_items, dtype=object).get_indexer(pd.Index(items.values, dtype=object)) >= 0
        absent = ~listed[items.codes] if len(listed) else np.zeros(table.num_rows, np.bool_)
        absent &= items.codes >= 0
        if before is not None:
            gone = pd.Index(before, dtype=object).get_indexer(pd.Index(items.values, dtype=object)) >= 0
            checks.refuse(absent & np.append(gone, False)[items.codes], GONE)
        checks.refuse(absent, "item_id: not in items.parquet")
    timestamps = _timestamps(table, checks, latest)
    events = _codes(table, "event", EVENT_CODES, DEFAULT_EVENT, checks)
    values = _values(table, events, checks)
    placed = {"position": _position(table, checks)}
    placed |= {name: _propensity(table, name, checks) for name in PLACED[1:]}
    split = None
    if with_split or (with_split is None and "split" in table.column_names):
        numbered = {str(code): code for code in SPLIT_CODES.values()}
        split = _codes(table, "split", SPLIT_CODES | numbered, "", checks)
    _refuse_repeated(checks, users, items, timestamps, events)

    refused, reasons = checks.refused()
    times = timestamps[refused]
    quarantine.add_rows(FILE, table, refused, reasons)
    keep = checks.accepted
    extra = [name for name in table.column_names if name not in READ_COLUMNS and name not in AFTERWARDS]
    asked = extra if context is None else list(context)
    # Codes are of the accepted rows: a value that only refused rows have is not worth one.
    codings, ignored = code_table(table.filter(pa.array(keep)), asked, known)
    unused = {name for name in table.column_names if name not in READ_COLUMNS} - set(asked)
    unused |= {"split"} & set(table.column_names) if split is None else set()
    return Interactions(
        users=IdColumn(users.codes[keep], users.values),
        items=IdColumn(items.codes[keep], items.values),
        timestamps=timestamps[keep],
        events=events[keep],
        values=values[keep],
        split=None if split is None else split[keep],
        context=codings,
        **{name: None if column is None else column[keep] for name, column in placed.items()},
        has_timestamps="timestamp" in table.column_names,
        counts={"read": table.num_rows, "accepted": int(keep.sum()), "quarantined": len(refused)},
        reasons=checks.counts(),
        ignored=ignored | {name: "not used by the models" for name in sorted(unused)},
        refused_times=np.where((times > 0) & (times <= latest), times, UNDATED),
        refused_reasons=reasons,
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


def _position(table: pa.Table, checks: RowChecks) -> np.ndarray | None:
    """Places on the page from 1; 0 where a row names none, None where the log has no such column."""
    if "position" not in table.column_names:
        return None
    numbers = read_numbers(table, "position")
    places = np.where(numbers.missing | numbers.bad, 1, numbers.values)
    wrong = numbers.bad | (places < 1) | (places > MOST_PLACES) | (np.floor(places) != places)
    checks.refuse(wrong, "position: must be a whole number of at least 1")
    return np.where(numbers.missing | wrong, 0, places).astype(np.int32)


def _propensity(table: pa.Table, name: str, checks: RowChecks) -> np.ndarray | None:
    """Probabilities of having been shown; NaN where a row names none, None where the log has no such column."""
    if name not in table.column_names:
        return None
    numbers = read_numbers(table, name)
    with np.errstate(over="ignore"):
        values = numbers.values.astype(np.float32)
    # Judged as it will be kept: what float32 rounds to 0 cannot be divided by.
    wrong = ~numbers.missing & (numbers.bad | ~((values > 0) & (values <= 1)))
    checks.refuse(wrong, f"{name}: must be a probability above 0 and at most 1")
    return np.where(numbers.missing, np.float32(np.nan), values)


def _refuse_repeated(
    checks: RowChecks, users: IdColumn, items: IdColumn, timestamps: np.ndarray, events: np.ndarray
) -> None:
    """Refuse every accepted row that says the same as an earlier accepted one."""
    rows = np.flatnonzero(checks.accepted)
    columns = {"user": users.codes, "item": items.codes, "timestamp": timestamps, "event": events}
    repeated = pd.DataFrame({name: values[rows] for name, values in columns.items()}).duplicated().to_numpy()
    mask = np.zeros(len(timestamps), np.bool_)
    mask[rows[repeated]] = True
    checks.refuse(mask, REPEATED)
