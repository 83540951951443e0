"""Kept feedback on disk: log files of JSON lines, and Parquet by the day of the event, in the dataset folder's columns."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from data.durable_file import sync, write_durably
from serving.feedback.events import COLUMNS

WRITTEN, EVENTS = "written", "interactions"
"""Folders of a feedback folder: log files, and `date=YYYY-MM-DD/*.parquet`."""

SENT = "sent.txt"
"""Names of the files that all have gone to a stream (`serving.feedback.kafka`), one a line."""

TYPES = {
    "timestamp": pa.int64(), "value": pa.float32(), "position": pa.int32(), "propensity": pa.float32(),
    "received": pa.int64(),
}  # fmt: skip
"""Of columns that are no text."""


def read_written(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Events of a log file, and how many of its lines are torn: those that a kill cut off, or that a disk refused."""
    events, torn = [], 0
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            torn += 1
            continue
        if isinstance(event, dict) and "event_id" in event:
            events.append(event)
        else:
            torn += 1
    return events, torn


def as_table(events: Sequence[dict[str, Any]]) -> pa.Table:
    """Events as a table: the columns of `COLUMNS`, then those of their context by name; null where there is none."""
    context = sorted({name for event in events for name in event} - set(COLUMNS))
    columns = {
        name: pa.array([event.get(name) for event in events], TYPES.get(name, pa.string()))
        for name in (*COLUMNS, *context)
    }
    return pa.table(columns)


def roll(events: Sequence[dict[str, Any]], folder: Path, name: str) -> list[Path]:
    """Writes events into `folder/date=YYYY-MM-DD/<name>.parquet`, a file a day, each whole or not at all.

    Doing it again with the same events and name changes nothing.
    """
    days: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        days.setdefault(day_of(int(event["timestamp"])), []).append(event)
    files = []
    for day, some in sorted(days.items()):
        files.append(folder / f"date={day}" / f"{name}.parquet")
        write_table(files[-1], as_table(some))
    return files


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table durably; its folder is made where it is missing."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        for folder in list(path.parents)[1:4]:  # the new names, too, are to outlast a power cut
            sync(folder)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    write_durably(path, [sink.getvalue().to_pybytes()])


def day_of(timestamp: int) -> str:
    """The UTC day of a time; one that no calendar has counts as day 0.

    Example:
        >>> day_of(1_700_000_000), day_of(2**39)
        ('2023-11-14', '1970-01-01')
    """
    try:
        return datetime.datetime.fromtimestamp(timestamp, tz=datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return "1970-01-01"


def partition_files(folder: Path) -> list[Path]:
    """The Parquet files of a feedback folder, by day and name."""
    return sorted((folder / EVENTS).glob("date=*/*.parquet"))


def sent_files(folder: Path) -> set[str]:
    """The files of a feedback folder that have been sent to a stream, by their path in it."""
    file = folder / SENT
    # What follows the last line break was being written when a process was killed.
    return set(file.read_text().split("\n")[:-1]) if file.is_file() else set()


def mark_sent(folder: Path, files: Iterable[Path]) -> None:
    """Adds files to those that have been sent, on disk when it returns; what is gone from the folder is forgotten.
    For who has the folder alone (`data.folder_lock`): the list is read and written again."""
    known = sent_files(folder) | {str(path.relative_to(folder)) for path in files}
    there = {str(path.relative_to(folder)) for path in partition_files(folder)}
    write_durably(folder / SENT, ["".join(f"{name}\n" for name in sorted(known & there)).encode()])


def read_partitions(files: Sequence[Path]) -> pa.Table:
    """The events of some files, those of an id once: the first received, and of those the first in the files' order.

    Columns that a file lacks are null. Of no file, an empty table.
    """
    tables = [parquet.ParquetFile(path).read() for path in files]
    if not tables:
        return as_table([])
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    order = np.argsort(table["received"].to_numpy(), kind="stable")
    again = pd.Series(table["event_id"].to_numpy()[order]).duplicated().to_numpy()
    return table.take(pa.array(order[~again]))


def last_received(path: Path) -> float:
    """When the last event of a Parquet file was received, out of its footer; infinite where that does not say."""
    footer = parquet.read_metadata(path)
    place = footer.schema.to_arrow_schema().get_field_index("received")
    if place < 0:
        return math.inf
    groups = [footer.row_group(number).column(place).statistics for number in range(footer.num_row_groups)]
    known = all(told is not None and told.has_min_max for told in groups)
    return max((float(told.max) for told in groups), default=math.inf) if known else math.inf


def kept_event_ids(folder: Path, most: int) -> list[str]:
    """Ids of the events on disk, at most `most`, of the files written last and of log files still being written."""

    def by_age() -> Iterator[list[str]]:
        for path in sorted((folder / WRITTEN).glob("*.jsonl"), reverse=True):
            yield [str(event["event_id"]) for event in read_written(path)[0]]
        for path in sorted(partition_files(folder), key=lambda path: (path.stat().st_mtime_ns, path), reverse=True):
            yield parquet.read_table(path, columns=["event_id"], partitioning=None)["event_id"].to_pylist()

    ids: list[str] = []
    for some in by_age():
        ids += some[: most - len(ids)]
        if len(ids) >= most:
            break
    return ids[::-1]
