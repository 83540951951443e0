"""From kept feedback to the next training run: small files merged by day, and the events added to a dataset folder."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from data.columns import as_texts, read_ids
from data.dataset import DatasetError
from data.folder_lock import alone
from data.interactions import FILE
from data.pseudonyms import FORM, MARK, marked
from data.schema import DEFAULT_EVENT
from data.validation import RowChecks
from serving.feedback.events import OWN_COLUMNS
from serving.feedback.log import adopt
from serving.feedback.partitions import mark_sent, partition_files, read_partitions, sent_files, write_table

DATASET_NAMES = {"propensity": "place_propensity"}
"""What a dataset folder calls a column of feedback: a page's items are chosen place by place, and its `propensity` is that of
being on the page at all."""
SAME_EVENT = ["user_id", "item_id", "event", "timestamp"]
"""Two lines that agree in these say the same; the ingest takes the first of them."""


def compact(folder: Path) -> int:
    """Merges the files of each day into one, without duplicates; returns how many events are kept.

    May run while a gateway writes, and be killed at any moment: a merged file is whole before those that it replaces go,
    and an event that lies in two files counts once wherever they are read. A day of which only some files have gone to
    a stream goes there again as a whole. Others who change these files wait (`data.folder_lock`).

    Args:
        folder: a feedback folder, normally `<state>/feedback`.
    """
    with alone(folder):
        adopt(folder)
        days: dict[Path, list[Path]] = {}
        for path in partition_files(folder):
            days.setdefault(path.parent, []).append(path)
        for day, files in days.items():
            if len(files) > 1:
                merged = day / f"merged-{uuid.uuid4().hex[:12]}.parquet"
                write_table(merged, read_partitions(files))
                if {str(path.relative_to(folder)) for path in files} <= sent_files(folder):
                    mark_sent(folder, [merged])
                for path in files:
                    path.unlink(missing_ok=True)
        return read_partitions(partition_files(folder)).num_rows


def add_feedback(folder: Path, source: Path) -> dict[str, int]:
    """Adds kept feedback to the `interactions.parquet` of a dataset folder, which is replaced whole or not at all.

    The columns of the log that training must not see (event id, session, time of arrival) stay behind; names of the
    context become columns, and `propensity` becomes `place_propensity`. Where the log has a published split, feedback
    belongs to its training part. Adding the same feedback again adds nothing.

    Users whom clients name by pseudonyms (`data.pseudonyms`) are marked as such in the column `MARK`, so that an ingest with
    a salt does not make pseudonyms of pseudonyms. Without a salt the mark says nothing.

    The dataset folder is locked meanwhile: what `forget-user` takes out of it would come back with what was read before.

    Args:
        folder: a feedback folder. source: a dataset folder with `interactions.parquet`.

    Returns:
        "before", "added" and "after", in events.

    Raises:
        DatasetError: there is no `interactions.parquet`, or it lacks a column that tells events apart.
    """
    file = source / FILE
    if not file.is_file():
        raise DatasetError(
            f"{source}: must be a dataset folder with {FILE}, received none. Name the folder of the run."
        )
    with alone(source):
        return _add(folder, file)


def _add(folder: Path, file: Path) -> dict[str, int]:
    """`add_feedback` for who has the dataset folder alone."""
    before = parquet.ParquetFile(file).read()
    missing = sorted({"user_id", "item_id", "timestamp"} - set(before.column_names))
    if missing:
        raise DatasetError(f"{file}: must have the columns user_id, item_id and timestamp, received none of {missing}.")
    compact(folder)
    with alone(folder):
        kept = read_partitions(partition_files(folder)).drop_columns(list(OWN_COLUMNS))
    kept = kept.drop_columns([name for name in kept.column_names if kept[name].null_count == kept.num_rows])
    kept = kept.rename_columns([DATASET_NAMES.get(name, name) for name in kept.column_names])
    if kept.num_rows == 0:
        return {"before": before.num_rows, "added": 0, "after": before.num_rows}
    kept = _marked(kept, before)
    if "split" in before.column_names:
        kept = kept.append_column("split", pa.array(["train"] * kept.num_rows))
    if "event" not in before.column_names:
        # Its lines are of the default kind, and would be so no longer beside a column of kinds.
        before = before.append_column("event", pa.array([DEFAULT_EVENT] * before.num_rows))
    both = pa.concat_tables(_of_equal_types(before, kept), promote_options="default").combine_chunks()
    again = both.select(SAME_EVENT).to_pandas().duplicated().to_numpy(copy=True)
    again[: before.num_rows] = False  # what the log said twice before is not for us to mend
    rows = np.flatnonzero(~again)
    if len(rows) == before.num_rows:  # a file that is written again would be new data to a job
        return {"before": before.num_rows, "added": 0, "after": before.num_rows}
    times = both["timestamp"].to_numpy()[rows]
    result = both.take(pa.array(rows[np.argsort(times, kind="stable")]))
    write_table(file, result)
    return {"before": before.num_rows, "added": len(rows) - before.num_rows, "after": len(rows)}


def _marked(kept: pa.Table, before: pa.Table) -> pa.Table:
    """Feedback with a mark at users whose id has the form of a pseudonym; as it is where there are none."""
    kept = kept.drop_columns([name for name in kept.column_names if name == MARK])  # nobody's context to say
    sent = np.array([FORM.fullmatch(user) is not None for user in kept["user_id"].to_pylist()], np.bool_)
    if not sent.any() or _hexadecimal(before):
        return kept
    return kept.append_column(MARK, pa.array(sent))


def _hexadecimal(log: pa.Table) -> bool:
    """Whether most ids of the log's own have the form of a pseudonym, as those of some shops do: then it tells nothing."""
    log = log.filter(pa.array(~marked(log)))
    ids = read_ids(log, "user_id", RowChecks(log.num_rows)).values
    return 2 * sum(FORM.fullmatch(id_) is not None for id_ in ids) > len(ids)


def _of_equal_types(before: pa.Table, kept: pa.Table) -> list[pa.Table]:
    """Both tables with the same type in every column that both have: ids as text, the rest see `_alike`."""
    for name in before.column_names:
        column = before[name]
        if name == "timestamp" and pa.types.is_temporal(column.type):
            column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        elif (
            name in ("user_id", "item_id")
            or pa.types.is_dictionary(column.type)
            or pa.types.is_large_string(column.type)
        ):
            column = as_texts(column)
        if name in kept.column_names and not pa.types.is_null(column.type):
            column, feedback = _alike(column, kept[name])
            kept = _with(kept, name, feedback)
        before = _with(before, name, column)
    return [before, kept]


def _alike(log: pa.ChunkedArray, feedback: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Two columns in one type: that of the log where it holds the feedback, else a wider one of numbers, else text."""
    numbers = all(_is_number(column.type) for column in (log, feedback))
    for kind in (log.type, *((pa.int64(), pa.float64()) if numbers else ())):
        try:
            return log.cast(kind), feedback.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return as_texts(log), as_texts(feedback)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
