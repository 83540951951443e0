"""From a dataset folder to an ingested one: read, validate, quarantine, k-core, split, vocabularies, counts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from data.catalogue import Catalogue, empty_items, read_items
from data.categorical import Coding
from data.columns import check_columns
from data.dataset import ATTRIBUTE, CONTEXT, EVENT_COLUMNS, OPTIONAL_EVENT_COLUMNS, PROFILE, Dataset, train_counts
from data.fake_users import honest_events
from data.interactions import READ_COLUMNS, UNDATED, Interactions, read_interactions
from data.people import read_users
from data.pseudonyms import Pseudonyms
from data.schema import EVENT_CODES, NEGATIVE_EVENTS, SPLIT_CODES, TEST, TRAIN, Schema
from data.splits import check_fractions, core, global_time, leave_last_out, random_split
from data.validation import DatasetError, Quarantine
from data.vocabulary import Vocabulary

SplitKind = Literal["auto", "global_time", "leave_last_out", "given", "random"]


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """What can be chosen at ingest.

    Attributes:
        split: `given` (the column `split`), `global_time`, `leave_last_out`, `random`; `auto` = the first that the log
            allows among given, global_time and random.
        valid_fraction, test_fraction: of the time span (`global_time`) or of the user-item pairs (`random`).
        k_core: keep users and items with at least k positive events, repeatedly; 0 keeps all, new releases included.
        min_value: events with a smaller value (a low rating) are not positive; events without a value are unaffected.
        positive_events: kinds that are positive; None = all but `NEGATIVE_EVENTS`.
        context: columns of the log that were known when an item was shown; None = every column without another meaning.
        columns: the only profile, attribute and context columns that may be read, by name, whatever their file; None = all.
            What is not named never leaves the dataset folder, not even for the quarantine.
        pseudonym_salt_file: holds the salt of `data.pseudonyms`; "" = ids stay as they are.
        anomaly_share: of the users that may be fake (shilling), see `data.suspects`; those found are set aside. 0 = do not
            look.
        seed: of the random split.
        now: the present in UTC seconds; None = the clock.
        max_future_seconds: how far beyond the present a timestamp may lie.
        max_text_length: characters kept of a text cell.
    """

    split: SplitKind = "auto"
    valid_fraction: float = 0.15
    test_fraction: float = 0.15
    k_core: int = 0
    min_value: float | None = None
    positive_events: tuple[str, ...] | None = None
    context: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    pseudonym_salt_file: str = ""
    anomaly_share: float = 0.0
    seed: int = 0
    now: int | None = None
    max_future_seconds: int = 86_400
    max_text_length: int = 10_000

    def __post_init__(self) -> None:
        kinds = ("auto", "global_time", "leave_last_out", "given", "random")
        if self.split not in kinds:
            raise DatasetError(f"split: must be among {kinds}, received {self.split!r}.")
        check_fractions(self.valid_fraction, self.test_fraction)
        if not 0 <= self.anomaly_share <= 0.5:
            raise DatasetError(f"anomaly_share: must be 0 (off) to 0.5, received {self.anomaly_share}.")
        unknown = set(self.positive_events or ()) - set(EVENT_CODES)
        if unknown:
            raise DatasetError(f"positive_events: must be among {tuple(EVENT_CODES)}, received {sorted(unknown)}.")
        taken = set(self.context or ()) & set(READ_COLUMNS)
        if taken:
            raise DatasetError(f"context: columns with a meaning of their own are none, received {sorted(taken)}.")
        if self.columns is not None and (left_out := set(self.context or ()) - set(self.columns)):
            raise DatasetError(f"context: must be among `columns` where these are given, received {sorted(left_out)} beside.")


def ingest(
    source: str | Path,
    out: str | Path,
    config: IngestOptions | None = None,
    *,
    since: int | None = None,
    previous: Dataset | None = None,
) -> Dataset:
    """Read a dataset folder, check it and fill `out` with the ingested dataset (the caller renames it when whole).

    `since`: UTC seconds; the report also counts the rows of the log that are later, see `Interactions.rows_since`.
    `previous`: the dataset of the release before, in whose codes its columns go on, see `data.categorical`.

    Row numbers: items in the order of `items.parquet` (without that file: ids sorted), users in the order of
    `users.parquet`, then users only the log knows, sorted.

    Raises:
        DatasetError: a file or a required column that cannot be used, a split the log does not allow, or nothing left
            to train or to test on. Bad rows are no error: see `quarantine.parquet` and `report.json`.
    """
    source, out = Path(source), Path(out)
    options = config or IngestOptions()
    quarantine = Quarantine()
    latest = (int(time.time()) if options.now is None else options.now) + options.max_future_seconds
    columns = options.columns
    pseudonyms = Pseudonyms.from_file(options.pseudonym_salt_file) if options.pseudonym_salt_file else None
    catalogue = people = None
    if (source / "items.parquet").exists():
        catalogue = read_items(
            source, quarantine, latest=latest, max_text_length=options.max_text_length, allowed=columns,
            known=None if previous is None else previous.attribute_vocabulary,
        )  # fmt: skip
    if (source / "users.parquet").exists():
        people = read_users(
            source, quarantine, columns=columns, pseudonyms=pseudonyms,
            known=None if previous is None else previous.profile_vocabulary,
        )  # fmt: skip
    log = read_interactions(
        source,
        quarantine,
        known_items=None if catalogue is None else catalogue.frame["item_id"].to_numpy(dtype=object),
        latest=latest,
        with_split={"auto": None, "given": True}.get(options.split, False),
        context=options.context,
        columns=columns,
        pseudonyms=pseudonyms,
        people=() if people is None else people.frame["user_id"].tolist(),
        known=None if previous is None else previous.context_vocabulary,
        before=None if previous is None else previous.items["item_id"].to_numpy(dtype=object)[1:],
    )
    later = {} if since is None else {"rows_since": log.rows_since(since)}
    check_columns(source, columns)  # by now every file has been found readable
    honest, anomalies = honest_events(log, options.anomaly_share, quarantine, seed=options.seed)
    log = log.select(honest)
    positive = positive_mask(log, options)
    keep = core(log.users.codes, log.items.codes, positive, options.k_core)
    if not keep.any():
        raise DatasetError(
            f"{source / 'interactions.parquet'}: no event left of {log.counts['read']} (quarantined: {log.reasons}; "
            f"k_core={options.k_core}). Mend the log or lower k_core."
        )
    log, positive, removed = log.select(keep), positive[keep], int((~keep).sum())

    users, user_lines = _vocabulary(log.users.values, log.users.codes, people, "user_id", options.k_core)
    items, item_lines = _vocabulary(log.items.values, log.items.codes, catalogue, "item_id", options.k_core)
    user_rows, item_rows = users.rows(log.users.values)[log.users.codes], items.rows(log.items.values)[log.items.codes]
    kind, split = make_split(log, positive, user_rows, item_rows, options)
    order = np.lexsort((log.timestamps, user_rows))  # stable: ties keep the input order
    parts = (user_rows, item_rows, log.timestamps, log.events, log.values, split, positive)
    events = pd.DataFrame({name: column[order] for name, column in zip(EVENT_COLUMNS, parts, strict=True)})
    events = events.astype(EVENT_COLUMNS)
    numbers = {name: getattr(log, name) for name in OPTIONAL_EVENT_COLUMNS}
    told = {name: column[order] for name, column in numbers.items() if column is not None}
    codes = {name: Coding(coding.codes[order], coding.values) for name, coding in log.context.items()}
    events = _with_codes(events.assign(**told), CONTEXT, codes)
    _check_parts(events, kind)

    profile = _codings(people, user_lines, len(users))
    attributes = _codings(catalogue, item_lines, len(items))
    known = empty_items(items.to_array()[1:]) if catalogue is None else catalogue.frame.iloc[item_lines]
    item_frame = pd.concat([empty_items(np.array([""], dtype=object)), known], ignore_index=True)
    text_columns = [name for name in item_frame if name not in ("price", "created_at")]
    item_frame = item_frame.astype(dict.fromkeys(text_columns, "str") | {"price": "float32", "created_at": "int64"})
    dataset = Dataset(
        schema=Schema(
            user_rows=len(users),
            item_rows=len(items),
            profile={name: len(coding.values) for name, coding in profile.items()},
            attributes={name: len(coding.values) for name, coding in attributes.items()},
            has_timestamps=log.has_timestamps,
            context={name: len(coding.values) for name, coding in log.context.items()},
        ),
        users=_with_codes(pd.DataFrame({"user_id": users.to_array()}).astype("str"), PROFILE, profile),
        items=_with_codes(item_frame, ATTRIBUTE, attributes),
        events=events,
        counts=train_counts(events, len(items)),
        profile_vocabulary={name: coding.values for name, coding in profile.items()},
        attribute_vocabulary={name: coding.values for name, coding in attributes.items()},
        context_vocabulary={name: coding.values for name, coding in log.context.items()},
        report={
            "users": len(users) - 1,
            "items": len(items) - 1,
            "events": len(events),
            "positive_events": int(positive.sum()),
            "split": kind,
            "events_by_split": {name: int((split == code).sum()) for name, code in SPLIT_CODES.items()},
            "quarantined": sum(part.counts["quarantined"] for part in (log, catalogue, people) if part),
            "quarantine_lines": len(quarantine),
            "removed_by_k_core": removed,
            "anomalies": anomalies,
            "rows": {
                name: part.counts
                for name, part in (("interactions", log), ("items", catalogue), ("users", people))
                if part
            },
            "undated_rows": int((log.refused_times == UNDATED).sum()),
            **later,
            "event_reasons": log.reasons,
            "ignored_columns": {
                name: part.ignored
                for name, part in (("interactions", log), ("items", catalogue), ("users", people))
                if part and part.ignored
            },
            "kept_codings": {
                name: notes
                for name, codings in (
                    ("interactions", log.context),
                    ("items", catalogue.codings if catalogue else {}),
                    ("users", people.codings if people else {}),
                )
                if (notes := {column: coding.note for column, coding in codings.items() if coding.note})
            },
        },
        folder=out,
    )
    for part in (log, catalogue, people):
        assert part is None or part.counts["read"] == part.counts["accepted"] + part.counts["quarantined"], part
    assert log.counts["accepted"] == len(events) + removed + anomalies.get("events", 0), (log.counts, len(events), removed)
    dataset.check()
    dataset.save(out)
    quarantine.write(out / "quarantine.parquet")
    return dataset


def positive_mask(log: Interactions, options: IngestOptions) -> np.ndarray:
    """bool [E]: kind among the positive ones and, if a threshold is set, no value below it."""
    kinds = set(EVENT_CODES) - NEGATIVE_EVENTS if options.positive_events is None else set(options.positive_events)
    positive = np.isin(log.events, [EVENT_CODES[kind] for kind in sorted(kinds)])
    return positive if options.min_value is None else positive & ~(log.values < options.min_value)


def make_split(
    log: Interactions, positive: np.ndarray, users: np.ndarray, items: np.ndarray, options: IngestOptions
) -> tuple[str, np.ndarray]:
    """The kind of split that was made and its codes, int8 [E].

    Raises:
        DatasetError: a split by time of a log without timestamps.
    """
    kind: str = options.split
    if kind == "auto":
        kind = "given" if log.split is not None else "global_time" if log.has_timestamps else "random"
    if kind in ("global_time", "leave_last_out") and not log.has_timestamps:
        raise DatasetError(
            f"split: {kind!r} needs the column `timestamp`, which interactions.parquet lacks. Use given or random; a nightly "
            "job has no other way to tell what is new."
        )
    if kind == "given":
        assert log.split is not None
        return kind, log.split
    if kind == "global_time":
        return kind, global_time(log.timestamps, options.valid_fraction, options.test_fraction)
    if kind == "leave_last_out":
        return kind, leave_last_out(users, log.timestamps, positive)
    return kind, random_split(users, items, options.valid_fraction, options.test_fraction, seed=options.seed)


def _check_parts(events: pd.DataFrame, kind: str) -> None:
    wanted = events["split"].to_numpy()[events["positive"].to_numpy()]
    for name, code in (("train", TRAIN), ("test", TEST)):
        if not (wanted == code).any():
            raise DatasetError(
                f"split: {kind!r} leaves no positive event in the {name} part of {len(events)} events. Change the "
                "fractions, the kind of split, `positive_events` or `min_value`."
            )


def _vocabulary(
    values: np.ndarray, codes: np.ndarray, table: Catalogue | None, key: str, k_core: int
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary, and the lines of the table that its first rows come from (the others only the log knows)."""
    used = values[np.bincount(codes, minlength=len(values)) > 0]
    if table is None:
        return Vocabulary(np.array(sorted(used), dtype=object)), np.zeros(0, np.int64)
    listed = table.frame[key].to_numpy(dtype=object)
    present = pd.Index(listed, dtype=object).isin(used)
    # Under a k-core the rest is not part of the dataset; without one, an item without events is a new release.
    lines = np.flatnonzero(present) if k_core else np.arange(len(listed))
    extra = sorted(set(used) - set(listed))
    return Vocabulary(np.concatenate([listed[lines], np.array(extra, dtype=object)])), lines


def _codings(table: Catalogue | None, lines: np.ndarray, rows: int) -> dict[str, Coding]:
    """The table's coded columns aligned with the vocabulary: row 0 and rows the table does not know are 0."""
    aligned = {}
    for name, coding in ({} if table is None else table.codings).items():
        codes = np.zeros(rows, np.int32)
        codes[1 : 1 + len(lines)] = coding.codes[lines]
        aligned[name] = Coding(codes, coding.values)
    return aligned


def _with_codes(frame: pd.DataFrame, prefix: str, codings: Mapping[str, Coding]) -> pd.DataFrame:
    columns = {prefix + name: coding.codes for name, coding in codings.items()}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)
