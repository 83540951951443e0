"""Any log and catalogue kept as CSV or Parquet tables, with optional media files and ready-made vectors beside them."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.interactions import PLACED
from data.readers import (
    ID_COLUMNS,
    MEDIA_COLUMNS,
    Conversion,
    DatasetWriter,
    MediaMode,
    read_delimited,
    texts,
    with_numbers,
)
from data.readers_vectors import read_vectors
from data.schema import SPLIT_CODES
from data.validation import DatasetError

TABLES = ("interactions", "items", "users")
LOG_COLUMNS = ("user_id", "item_id", "timestamp", "event", "value", "split", "domain", *PLACED)
CATALOGUES = ("all", "events")


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """Where things lie in the source folder and what they are called.

    Attributes:
        interactions: file of the log (.parquet, .csv or .tsv).
        items, users: files of the catalogue and the profiles; None = there is none.
        columns: {"interactions" | "items" | "users": {our name: their name}}. Columns that already have our name need
            no entry; other columns of items and users are kept as attributes and profile, those of the log only if
            they are named here (`device=device`): context is what was known beforehand, and nobody else can tell.
        event: the kind of every event, if the log has no such column.
        split: the log's column with a published split; rows whose code is not in `split_codes` are not part of it.
        split_codes: {"train" | "valid" | "test": code in that column}.
        media: {"image" | "audio" | "video": template of the path under the source folder}, such as
            `posters/{item_id}.jpg` with any column of the catalogue; without one the column of that name holds paths.
        features: {modality: "vectors.npy" or "vectors.npy:ids.npy"}; without ids, row k belongs to the item `k`.
        catalogue: "all" items, or only those with "events" in the converted log (full ranking over the items of a
            published split).
        delimiter, encoding: of CSV files.
        media_mode: copy the files, or hard-link them (no space, but they are then the same files as the source's).
    """

    interactions: str = "interactions.parquet"
    items: str | None = None
    users: str | None = None
    columns: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    event: str | None = None
    split: str | None = None
    split_codes: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {name: str(code) for name, code in SPLIT_CODES.items()}
    )
    media: Mapping[str, str] = dataclasses.field(default_factory=dict)
    features: Mapping[str, str] = dataclasses.field(default_factory=dict)
    catalogue: str = "all"
    delimiter: str = ","
    encoding: str = "utf-8"
    media_mode: MediaMode = "copy"

    def __post_init__(self) -> None:
        if self.catalogue not in CATALOGUES:
            raise DatasetError(f"catalogue: must be among {CATALOGUES}, received {self.catalogue!r}.")
        for argument, names, allowed in (
            ("columns", self.columns, TABLES),
            ("media", self.media, MEDIA_COLUMNS),
            ("split_codes", self.split_codes, tuple(SPLIT_CODES)),
        ):
            if set(names) - set(allowed):
                raise DatasetError(f"{argument}: must name only {allowed}, received {sorted(names)}.")


def convert_table(source: str | Path, out: str | Path, options: TableOptions | None = None) -> Conversion:
    """Convert CSV or Parquet tables into a dataset folder.

    Raises:
        DatasetError: a file or column that is not there, or vectors that do not fit their ids.
    """
    options = options or TableOptions()
    writer = DatasetWriter(Path(source), Path(out), media_mode=options.media_mode)
    log = _read(writer, options.interactions, options)
    log = _renamed(log, options.columns.get("interactions", {}), options.interactions)
    if options.split is not None:
        if options.split not in log.column_names:
            raise DatasetError(
                f"split: {options.interactions} must have the column {options.split!r}, received {log.column_names}."
            )
        codes = log[options.split]
        log = log.drop_columns(list({"split", options.split} & set(log.column_names))).append_column("split", codes)
        log, outside = split_words(log, options.split_codes)
        writer.leave_out(f"interactions: rows outside the split {options.split}", outside)
    if options.event is not None and "event" not in log.column_names:
        log = log.append_column("event", pa.array([options.event] * log.num_rows, pa.string()))
    kept = {*LOG_COLUMNS, *options.columns.get("interactions", {})}
    writer.interactions(log.select([name for name in log.column_names if name in kept]))

    vectors = {name: read_vectors(writer.source, where) for name, where in options.features.items()}
    used = {id_ for id_ in texts(pa.chunked_array([log["item_id"].unique()])) if id_}
    items = None
    if options.items is not None:
        table = _read(writer, options.items, options)
        items = _renamed(table, options.columns.get("items", {}), options.items, key="item_id")
        if options.catalogue == "events":
            keep = np.array([id_ in used for id_ in texts(items["item_id"])], np.bool_)
            writer.leave_out("items: without an event in the converted log", int((~keep).sum()))
            items = items.filter(pa.array(keep))
    elif vectors or options.media:
        known = used | {id_ for _, ids in vectors.values() for id_ in ids if options.catalogue == "all"}
        items = pa.table({"item_id": pa.array(sorted(known, key=_natural), pa.string())})
    if items is not None:
        for name, template in options.media.items():
            paths = pa.array(_fill(template, items), pa.string())
            items = items.drop_columns([name]) if name in items.column_names else items
            items = items.append_column(name, paths)
        writer.items(items)
    if options.users is not None:
        users = _read(writer, options.users, options)
        writer.users(_renamed(users, options.columns.get("users", {}), options.users, key="user_id"))
    for name, (table, ids) in vectors.items():
        writer.features(name, table, ids)
    return writer.close()


def split_words(log: pa.Table, codes: Mapping[str, str]) -> tuple[pa.Table, int]:
    """The rows whose `split` is one of the codes, spelled train, valid or test, and the number of the others."""
    words = {str(code): name for name, code in codes.items()}
    spelled = pd.Series(texts(log["split"]), dtype="str").map(words)
    keep = spelled.notna().to_numpy()
    column = pa.array(spelled[keep].to_numpy(dtype=object), pa.string())
    kept = log.filter(pa.array(keep))
    return kept.set_column(kept.column_names.index("split"), "split", column), int((~keep).sum())


def parse_pairs(argument: str, pairs: list[str]) -> dict[str, str]:
    """`name=value` arguments as a dictionary.

    Example:
        >>> parse_pairs("features", ["image=image_feat.npy"])
        {'image': 'image_feat.npy'}
    """
    parsed = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not (found and name and value) or name in parsed:
            raise DatasetError(f"{argument}: must be name=value with each name once, received {pair!r}.")
        parsed[name] = value
    return parsed


def parse_columns(pairs: list[str]) -> dict[str, dict[str, str]]:
    """`ours=theirs` arguments of the log, or `items.ours=theirs` and `users.ours=theirs`, by table.

    Example:
        >>> parse_columns(["value=rating", "items.description=plot"])
        {'interactions': {'value': 'rating'}, 'items': {'description': 'plot'}}
    """
    columns: dict[str, dict[str, str]] = {}
    for name, theirs in parse_pairs("column", pairs).items():
        table, _, ours = name.rpartition(".")
        if table not in ("", *TABLES):
            raise DatasetError(f"column: the table must be among {TABLES}, received {table!r} in {name!r}.")
        columns.setdefault(table or "interactions", {})[ours] = theirs
    return columns


def _read(writer: DatasetWriter, name: str, options: TableOptions) -> pa.Table:
    path = writer.source / name
    if path.suffix == ".parquet":
        if not path.is_file():
            raise DatasetError(f"{path}: the file must exist, found none.")
        try:
            with path.open("rb") as file:
                return pq.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{path}: must be a readable Parquet file, received {error}.") from error
    if path.suffix not in (".csv", ".tsv", ".txt"):
        raise DatasetError(f"{path}: must be a .parquet, .csv or .tsv file, received {path.suffix!r}.")
    delimiter = "\t" if path.suffix == ".tsv" else options.delimiter
    table, broken = read_delimited(path, delimiter=delimiter, encoding=options.encoding)
    writer.leave_out(f"{name}: lines with a wrong number of fields", broken)
    # Ids stay text: "007" is not 7. Everything else that is a number throughout becomes one.
    mapped = [pair for columns in options.columns.values() for pair in columns.items()]
    ids = set(ID_COLUMNS) | {theirs for ours, theirs in mapped if ours in ID_COLUMNS}
    return with_numbers(table, [column for column in table.column_names if column not in ids])


def _renamed(table: pa.Table, columns: Mapping[str, str], file: str, key: str | None = None) -> pa.Table:
    missing = sorted(set(columns.values()) - set(table.column_names))
    if missing:
        raise DatasetError(f"column: {file} must have {missing}, received {table.column_names}.")
    # A column that had our name and is not the mapped one would clash with it.
    clash = [ours for ours, theirs in columns.items() if ours != theirs and ours in table.column_names]
    theirs_to_ours = {theirs: ours for ours, theirs in columns.items()}
    kept = table.drop_columns(clash)
    kept = kept.rename_columns([theirs_to_ours.get(name, name) for name in kept.column_names])
    for needed in [key] if key else ["user_id", "item_id"]:
        if needed not in kept.column_names:
            raise DatasetError(
                f"column: {file} must have {needed!r}, received {table.column_names}. Map it with {needed}=THEIR_NAME."
            )
    return kept


def _fill(template: str, items: pa.Table) -> list[str]:
    """A path for each item; columns come in by `{name}`, and an item that lacks one of them has no path."""
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    missing = [name for name in names if name not in items.column_names]
    if missing or not names:
        raise DatasetError(
            f"media: the template must use columns of the catalogue, received {template!r} with {items.column_names}."
        )
    cells: dict[str, list[Any]] = {name: texts(items[name]) for name in names}
    rows = (dict(zip(names, row, strict=True)) for row in zip(*cells.values(), strict=True))
    return [template.format(**row) if all(row.values()) else "" for row in rows]


def _natural(id_: str) -> tuple[int, str]:
    """Sorts numbers by size and before other ids."""
    return (len(id_), id_) if id_.isdecimal() else (1_000_000, id_)
