"""Reading `items.parquet`: ids, text, price, dates, media paths; bad cells are dropped, bad rows quarantined."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.categorical import Coding, code_table, code_texts
from data.cleaning import clean_texts
from data.columns import read_ids, read_numbers, read_parquet, read_texts, read_timestamps
from data.validation import Quarantine, RowChecks, readable

FILE = "items.parquet"
TEXTS = ("title", "description")
MEDIA = ("image", "audio", "video")
LISTS = ("categories", "tags")
"""Columns of several values a cell, joined by `|`: kinds of item, and what else items share, such as actors."""
ITEM_COLUMNS = ("item_id", *TEXTS, *LISTS, "price", "created_at", "domain", *MEDIA)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The accepted lines of a table of users or items, in file order.

    Attributes:
        frame: the columns that are kept as they are (for items `ITEM_COLUMNS`, for users `user_id`).
        codings: coded attribute or profile columns.
        ignored: columns that were not used, with the reason.
        counts: rows read, accepted, quarantined, and what happened to cells.
    """

    frame: pd.DataFrame
    codings: dict[str, Coding]
    ignored: dict[str, str]
    counts: dict[str, int]


def read_items(
    source: Path,
    quarantine: Quarantine,
    *,
    latest: int,
    max_text_length: int,
    allowed: Collection[str] | None = None,
    known: Mapping[str, Sequence[str]] | None = None,
) -> Catalogue:
    """Read and check the catalogue of a dataset folder.

    Args:
        source: the dataset folder.
        quarantine: receives rows without a usable or with a repeated id, and every dropped cell.
        latest: the last believable moment in UTC seconds, for `created_at`.
        max_text_length: characters kept of a title or description.
        allowed: columns that may be read beside `ITEM_COLUMNS`; None = all.
        known: vocabularies of the release before, by column.
    """
    only = None if allowed is None else {*ITEM_COLUMNS, *allowed}
    table = read_parquet(source / FILE, ["item_id"], quarantine, lists=LISTS, only=only)
    table, rows, counts = accept_rows(table, "item_id", FILE, quarantine)
    cells = _Cells(quarantine, rows, read_texts(table, "item_id"))
    columns: dict[str, np.ndarray] = {"item_id": cells.ids}
    counts["texts_cut"] = 0
    for name in TEXTS:
        columns[name], cut = clean_texts(_texts(table, name), max_text_length)
        counts["texts_cut"] += cut
    for name in LISTS:
        columns[name] = clean_texts(_texts(table, name), max_text_length)[0]
    columns["price"] = _price(table, cells)
    columns["created_at"] = _created_at(table, cells, latest)
    columns["domain"] = clean_texts(_texts(table, "domain"), max_text_length)[0]
    for name in MEDIA:
        columns[name] = _media(table, name, source / "media", cells)
    codings, ignored = code_table(table, [name for name in table.column_names if name not in ITEM_COLUMNS], known)
    first = np.array([text.split("|")[0].strip() for text in columns["categories"]], dtype=object)
    for name, texts in (("domain", columns["domain"]), ("category", first)):
        coding = code_texts(texts, keep_most_frequent=True)
        if coding is not None and len(coding.values) > 1:
            if name in codings:
                ignored[name] = "the first of `categories` stands in its place"
            codings[name] = coding
    counts["cells_dropped"] = cells.dropped
    return Catalogue(pd.DataFrame(columns), codings, ignored, counts)


def empty_items(ids: np.ndarray) -> pd.DataFrame:
    """The catalogue of a dataset that has no `items.parquet`: ids and nothing known of them."""
    columns: dict[str, np.ndarray] = {name: np.full(len(ids), "", dtype=object) for name in ITEM_COLUMNS}
    columns |= {"item_id": ids, "price": np.full(len(ids), np.nan, np.float32)}
    return pd.DataFrame(columns | {"created_at": np.zeros(len(ids), np.int64)})


def accept_rows(
    table: pa.Table, key: str, file: str, quarantine: Quarantine
) -> tuple[pa.Table, np.ndarray, dict[str, int]]:
    """The rows with a usable id that was not seen before, their numbers in the file, and the counts."""
    checks = RowChecks(table.num_rows)
    ids = read_ids(table, key, checks)
    repeated = pd.Series(ids.codes).duplicated().to_numpy() & (ids.codes >= 0)
    checks.refuse(repeated, f"{key}: repeated, the first is kept")
    refused, reasons = checks.refused()
    quarantine.add_rows(file, table, refused, reasons)
    rows = np.flatnonzero(checks.accepted)
    counts = {"read": table.num_rows, "accepted": len(rows), "quarantined": len(refused)}
    return table.filter(pa.array(checks.accepted)), rows, counts  # `take` would raise beyond 2 GiB of text


@dataclasses.dataclass
class _Cells:
    """Sends dropped cells to the quarantine with the file's own row number."""

    quarantine: Quarantine
    rows: np.ndarray
    ids: np.ndarray
    dropped: int = 0

    def drop(self, position: int, column: str, rule: str, value: object) -> None:
        record = {"item_id": self.ids[position], column: value}
        reason = f"{column}: {rule}; the cell is dropped, the item kept"
        self.quarantine.add_cell(FILE, self.rows[position], reason, record)
        self.dropped += 1


def _texts(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.full(table.num_rows, "", dtype=object)
    kind = table.schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists = readable(table[name])
        joined = ["|".join(str(part).replace("|", "/") for part in cell or () if part is not None) for cell in lists]
        return np.array(joined, dtype=object)
    return read_texts(table, name)


def _cell(column: pa.ChunkedArray, position: int) -> object:
    return readable(column.slice(position, 1))[0]


def _price(table: pa.Table, cells: _Cells) -> np.ndarray:
    if "price" not in table.column_names:
        return np.full(table.num_rows, np.nan, np.float32)
    numbers = read_numbers(table, "price")
    with np.errstate(over="ignore"):
        prices = numbers.values.astype(np.float32)
    bad = numbers.bad | (~numbers.missing & ~((prices >= 0) & np.isfinite(prices)))
    for position in np.flatnonzero(bad):
        cells.drop(int(position), "price", "must be a number of at least 0", _cell(table["price"], int(position)))
    return np.where(bad, np.float32(np.nan), prices)


def _created_at(table: pa.Table, cells: _Cells, latest: int) -> np.ndarray:
    if "created_at" not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    values, bad = read_timestamps(table, "created_at")
    given = np.asarray(pc.is_valid(table["created_at"]).to_numpy(), np.bool_)
    bad = given & (bad | (values > latest))
    for position in np.flatnonzero(bad):
        value = str(_cell(table["created_at"], int(position)))
        cells.drop(int(position), "created_at", "must be a time in UTC seconds, not in the future", value)
    return np.where(given & ~bad, values, 0)


def _media(table: pa.Table, name: str, root: Path, cells: _Cells) -> np.ndarray:
    """Paths relative to `media/`; what is no text, leads out of it or does not exist is dropped."""
    paths = np.full(table.num_rows, "", dtype=object)
    if name not in table.column_names:
        return paths
    real_root = os.path.realpath(root)
    folders: dict[str, str] = {}
    for position, value in enumerate(readable(table[name])):
        if value is None or value == "":
            continue
        path, rule = media_path(value, root, real_root, folders)
        if rule:
            cells.drop(position, name, rule, value)
        paths[position] = path
    return paths


def media_path(value: object, root: Path, real_root: str, folders: dict[str, str]) -> tuple[str, str]:
    """The path of one cell relative to `media/`, or "" and the rule it breaks.

    Args:
        value: the cell; a leading `media/` is allowed.
        root: the media folder, as given. real_root: the same with links resolved.
        folders: cache of resolved parent folders, for catalogues of millions.
    """
    if not isinstance(value, str):
        return "", "must be a path as text"
    path = value
    if path.startswith("media/") and not (root / "media").is_dir():
        path = path.removeprefix("media/")
    if "\\" in path or "\0" in path or path.startswith("/") or path[1:2] == ":" or "://" in path:
        return "", "must be a relative path with forward slashes under media/"
    if ".." in path.split("/"):
        return "", "must not leave media/ by '..'"
    full = os.path.join(root, path)
    parent = os.path.dirname(full)
    if parent not in folders:
        folders[parent] = os.path.realpath(parent)
    real = os.path.realpath(full) if os.path.islink(full) else os.path.join(folders[parent], os.path.basename(full))
    if os.path.commonpath([real_root, real]) != real_root:
        return "", "must not leave media/ by a link"
    if not os.path.isfile(real):
        return "", "no such file under media/"
    return path, ""
