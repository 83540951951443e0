"""Files without a person: rows of tables, entries of JSON, kept feedback; each file is replaced whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.categorical import TOMBSTONE
from data.columns import read_ids
from data.durable_file import sync, write_durably
from data.folder_lock import alone
from data.validation import RowChecks
from pipeline.forget.ids import KEY, RECORD, finder
from pipeline.stage import StageError
from serving.feedback.log import adopt
from serving.feedback.partitions import WRITTEN, partition_files, read_written

LISTS = ("users", "user_ids")
"""Names of lists and tables in JSON that hold ids of users."""
DROPPED = object()


def forget_in_table(path: Path, ids: frozenset[str], others: frozenset[str] = frozenset()) -> pa.Table:
    """Removes a person's rows from a Parquet file with a column `user_id` or `record`; returns those that were removed.
    `others`: see `ids_around`.

    A table without such rows, or without such a column, is not touched. Ids are compared as ingestion reads them, so that
    `7` is found in a column of numbers. Dictionaries are written anew: a dictionary would go on holding what no row uses.
    """
    table = pq.ParquetFile(path).read()
    mask = np.zeros(table.num_rows, np.bool_)
    if KEY in table.column_names:
        read = read_ids(table, KEY, RowChecks(table.num_rows))
        mask |= np.append(np.isin(read.values.astype(object), list(ids)), False)[read.codes]
    if RECORD in table.column_names:
        texts = pd.Series(table[RECORD].to_pylist(), dtype=object).fillna("")
        mask |= texts.map(finder(ids, others)).to_numpy(np.bool_)
    removed = table.filter(pa.array(mask))
    if removed.num_rows:
        for name in table.column_names:
            if pa.types.is_dictionary(table.schema.field(name).type):
                place, plain = table.column_names.index(name), table.schema.field(name).type.value_type
                table = table.set_column(place, name, table[name].cast(plain))
        write_table(path, table.filter(pa.array(~mask)))
    return removed


def write_table(path: Path, table: pa.Table) -> None:
    """Replaces a Parquet file, compressed as it was."""
    groups = pq.read_metadata(path)
    codec = groups.row_group(0).column(0).compression if groups.num_row_groups and groups.num_columns else "SNAPPY"
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="NONE" if codec == "UNCOMPRESSED" else codec)
    write_durably(path, [sink.getvalue().to_pybytes()])


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replaces an `.npz`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_durably(path, [buffer.getvalue()])


def forget_in_json(path: Path, ids: frozenset[str]) -> bool:
    """Removes what a JSON file says of a person: objects whose `user_id` they are, and their place in lists of users; whether
    there was any."""
    before = json.loads(path.read_text(encoding="utf-8"))
    after = _without(before, ids)
    if after == before:
        return False
    write_durably(path, [json.dumps(None if after is DROPPED else after, indent=2, ensure_ascii=False).encode(), b"\n"])
    return True


def _without(value: Any, ids: frozenset[str], users: bool = False) -> Any:
    # By the names of fields alone: an id such as "7" or "full" stands for other things elsewhere.
    if isinstance(value, dict):
        if isinstance(value.get(KEY), str) and value[KEY] in ids:
            return DROPPED
        kept = {name: _without(one, ids, name in LISTS) for name, one in value.items() if not (users and name in ids)}
        return {name: one for name, one in kept.items() if one is not DROPPED}
    if isinstance(value, list):
        return [kept for one in value if (kept := _without(one, ids, users)) is not DROPPED]
    return DROPPED if users and isinstance(value, str) and value in ids else value


def forget_in_dataset(data: Path, ids: frozenset[str], others: frozenset[str] = frozenset()) -> int:
    """Removes a person from a dataset folder: rows of every table, pictures that are theirs alone, and the truth of a
    generated world, whose rows keep their places; returns how many rows went.

    Pictures go before the row that names them, so that a kill in between leaves nothing that a second start cannot find.
    Feedback that is being added is waited for: it would bring back what it had read.
    """
    with alone(data):
        count = _forget_in_oracle(data / "oracle", ids)
        users = data / "users.parquet"
        if users.is_file():
            _forget_pictures(data, users, ids)
        for path in sorted(data.glob("*.parquet")):
            count += forget_in_table(path, ids, others).num_rows
    return count


def _forget_pictures(data: Path, users: Path, ids: frozenset[str]) -> None:
    table = pq.ParquetFile(users).read()
    if "image" not in table.column_names:
        return
    read = read_ids(table, KEY, RowChecks(table.num_rows))
    mine = np.append(np.isin(read.values.astype(object), list(ids)), False)[read.codes]
    images = np.array(table["image"].cast(pa.string()).fill_null("").to_pylist(), dtype=object)
    for name in sorted(set(images[mine]) - set(images[~mine]) - {""}):
        picture = (data / "media" / name).resolve()
        if picture.is_relative_to((data / "media").resolve()) and picture.is_file():
            picture.unlink()
            sync(picture.parent)


def _forget_in_oracle(oracle: Path, ids: frozenset[str]) -> int:
    if not (oracle / "users.parquet").is_file():
        return 0
    frame = pd.read_parquet(oracle / "users.parquet")
    rows = np.flatnonzero(frame[KEY].astype(str).isin(ids))
    if not len(rows):
        return 0
    preference = np.load(oracle / "preference.npy")
    preference[rows] = 0
    buffer = io.BytesIO()
    np.save(buffer, preference)
    write_durably(oracle / "preference.npy", [buffer.getvalue()])
    with np.load(oracle / "factors.npz") as stored:
        factors = {name: stored[name] for name in stored.files}
    for name in ("taste", "weight"):  # of users; the others are of items
        factors[name][rows] = 0
    write_arrays(oracle / "factors.npz", factors)
    frame.loc[rows, KEY] = [f"{TOMBSTONE}{row}" for row in rows]
    write_table(oracle / "users.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    return len(rows)


def forget_in_feedback(folder: Path, ids: frozenset[str]) -> int:
    """Removes a person's events from a gateway's feedback folder, log files and partitions; returns how many.

    What has gone to a stream is marked as before: a partition keeps its name. Files that are being merged are waited for.

    Raises:
        StageError: a gateway that runs is writing a log file with such events.
    """
    with alone(folder):
        adopt(folder)
        _refuse_written(folder, ids)
        return sum(forget_in_table(path, ids).num_rows for path in partition_files(folder))


def _refuse_written(folder: Path, ids: frozenset[str]) -> None:
    for path in sorted((folder / WRITTEN).glob("*.jsonl")):
        # By whose events they are: as a text, an id such as `3` stands in `"position":3`, too.
        if any(str(event.get(KEY)) in ids for event in read_written(path)[0]):
            raise StageError(
                f"{path}: a gateway is writing this file, and it holds events of the user. It is rolled within a minute of "
                "its first event: start again then, or stop the gateway first."
            )
