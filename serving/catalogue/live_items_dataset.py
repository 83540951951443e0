"""From a running catalogue to the next training run: added and changed items become lines of a dataset folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from data.catalogue import FILE
from data.columns import as_texts
from data.dataset import DatasetError
from data.durable_file import sync
from serving.catalogue.handed_over import HandedOver
from serving.catalogue.live_items_log import ADDED, LiveItem, LiveItemsLog, LiveState
from serving.feedback.partitions import write_table

MODALITIES = ("image", "audio", "video")
TYPES = {"price": pa.float64(), "created_at": pa.int64()}
"""Of columns that are no text, where the dataset folder has none yet, or one that is too narrow."""


def add_items(folder: Path, source: Path) -> dict[str, int]:
    """Puts added and changed items into the `items.parquet` of a dataset folder, and their media under its `media/`.

    A change is put over a line of the table once: what the table says of that item afterwards is newer, be it a shop's whole
    new catalogue. Items that the table has not, or no longer, are added at any time. The table is replaced whole or not at
    all. Columns that a gateway knows nothing of keep their values in changed lines and are null in added ones; a column of
    numbers that is too narrow becomes wider. Deleted items stay: what people did with them is worth learning from, and the
    gateway goes on leaving them out. Doing it again changes nothing.

    Args:
        folder: a gateway's items, normally `<state>/items`. source: a dataset folder with `items.parquet`.

    Returns:
        "before", "changed", "added" and "after", in items.

    Raises:
        DatasetError: there is no `items.parquet`.
    """
    file = source / FILE
    if not file.is_file():
        raise DatasetError(f"{source}: must be a dataset folder with {FILE}, received none. Name the folder of the run.")
    log, state, handed_over = LiveItemsLog(folder), LiveState(), HandedOver(folder, source)
    given = handed_over.size()
    for change in log.read(until=given):
        state.apply(change)
    new = set()
    for change in log.read():
        state.apply(change)
        if "put" in change:
            new.add(change["put"]["item_id"])
    before = parquet.ParquetFile(file).read().combine_chunks()
    table = before.set_column(before.column_names.index("item_id"), "item_id", as_texts(before["item_id"]))
    for item in state.items.values():
        _copy_media(item, log, source / "media")
    there = set(table["item_id"].to_pylist())
    items = [item for item in state.items.values() if item.item_id in new or item.item_id not in there]
    counts = {"before": table.num_rows, "changed": 0, "added": 0, "after": table.num_rows}
    if items:
        counts = _put(items, before, table, file)
    if log.position > given:
        handed_over.mark(log.position)
    return counts


def _put(items: list[LiveItem], before: pa.Table, table: pa.Table, file: Path) -> dict[str, int]:
    """Writes the table with some items in it; the counts of `add_items`.

    Args:
        before: as the file has it. table: the same, with ids as text.
    """
    for name in (field.name for field in dataclasses.fields(LiveItem)):
        kind = TYPES.get(name, pa.string())
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
        elif not _holds(table[name].type, [getattr(item, name) for item in items]):
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    places = pc.index_in(pa.array([item.item_id for item in items]), value_set=table["item_id"]).to_pylist()
    old = {place: table.slice(place, 1) for place in places if place is not None}
    lines = pa.concat_tables(
        [_line(item, None if place is None else old[place], table.schema) for item, place in zip(items, places, strict=True)]
    )
    order = np.arange(table.num_rows)
    for number, place in enumerate(places):
        if place is not None:
            order[place] = table.num_rows + number
    added = [table.num_rows + number for number, place in enumerate(places) if place is None]
    both = pa.concat_tables([table, lines])
    result = both.take(pa.array(np.concatenate([order, np.array(added, np.int64)])))
    if result != before:  # a file that is written again would be new data to a job
        write_table(file, result)
    counts = {"before": before.num_rows, "changed": len(items) - len(added), "added": len(added)}
    return {**counts, "after": result.num_rows}


def _line(item: LiveItem, old: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """The item as a table of one line; of columns that it does not have, those of the old line, or null."""
    values = dataclasses.asdict(item)
    columns = []
    for field in schema:
        if field.name in values:
            columns.append(_cell(values[field.name], field.type))
        else:
            columns.append(pa.nulls(1, field.type) if old is None else old[field.name].combine_chunks())
    return pa.table(columns, schema=schema)


def _holds(kind: pa.DataType, values: list[Any]) -> bool:
    """Whether a column of that type takes the values: one of whole numbers does not take a price of 12.5."""
    try:
        for value in values:
            _cell(value, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _cell(value: Any, kind: pa.DataType) -> pa.Array:
    """One value in the type of its column: nothing as null, categories as a list where the column has lists."""
    if value is None or value == "":
        return pa.nulls(1, kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.array([value.split("|")], kind)
    if pa.types.is_temporal(kind):
        return pa.array([value], pa.timestamp("s")).cast(kind)
    return pa.array([value]).cast(kind)


def _copy_media(item: LiveItem, log: LiveItemsLog, media: Path) -> None:
    """Files that came with the item, under the names that it has for them already."""
    for name in MODALITIES:
        path = getattr(item, name)
        held = log.media_file(path)
        final = media / path
        if held is None or final.is_file():
            continue
        (media / ADDED).mkdir(parents=True, exist_ok=True)
        writing = final.with_name(f".writing-{final.name}")
        shutil.copyfile(held, writing)
        sync(writing)
        writing.rename(final)
