"""Reading the columns of a Parquet file: one function per kind of column, vectorised, each naming the bad cells."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.validation import DatasetError, Quarantine, RowChecks

MAX_ID_BYTES = 512
BAD_ID_CHARACTERS = r"[\x00-\x1f\x7f\x{85}\x{2028}\x{2029}]"
"""Control characters and everything that some tool takes for the end of a line: a vocabulary is a file of lines."""
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""What `DataFrame.to_parquet` calls row labels: no property of anything, and later rows have other ones."""


def read_parquet(
    path: Path,
    required: Sequence[str],
    quarantine: Quarantine,
    lists: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> pa.Table:
    """Read a file of a dataset folder; columns of a type that is not understood are quarantined and left out.

    Args:
        path: the file.
        required: columns without which the file is useless.
        quarantine: receives the ignored columns.
        lists: columns that may be lists of strings.
        only: columns that may be read, where others must not be; None = all.

    Raises:
        DatasetError: no such file, not Parquet, a required column missing or of an unsupported type.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: the file must exist, found none. Convert your data first (see `convert --help`).")
    try:
        # Through a handle: a path with `key=value` parts would otherwise be read as a partitioned dataset.
        with path.open("rb") as file:
            names = None if only is None else [name for name in pq.read_schema(file).names if name in only]
            table = pq.read_table(file, columns=names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: must be a readable Parquet file, received {_first_line(error)!r}. Write it again as Parquet, "
            "or turn another format into a dataset folder with `convert`."
        ) from error
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise DatasetError(f"{path}: column names must be unique, received twice: {repeated}. Rename one of them.")
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise DatasetError(
            f"{path}: must have the column(s) {missing}, received {table.column_names}. Rename the columns, or use "
            "`convert` with a column mapping."
        )
    for name in table.column_names:
        kind = table.schema.field(name).type
        if PANDAS_INDEX.fullmatch(name):
            quarantine.add_column(path.name, name, "column: row labels that pandas has kept, the column is ignored")
            table = table.drop_columns([name])
            continue
        if _supported(kind) or (name in lists and _is_text_list(kind)):
            continue
        if name in required:
            raise DatasetError(
                f"{path}: the column {name!r} must be text or a number, received {kind}. Write it as text."
            )
        quarantine.add_column(path.name, name, f"column: unsupported type {kind}, the column is ignored")
        table = table.drop_columns([name])
    return table


def check_columns(source: Path, wanted: Sequence[str] | None) -> None:
    """Whether every name of an allow-list is a column of some file of a dataset folder.

    Raises:
        DatasetError: one is not: a misspelt name would silently leave out the column that was meant.
    """
    if wanted is None:
        return
    files = [path for path in sorted(source.glob("*.parquet")) if path.is_file()]
    there = {name for path in files for name in pq.read_schema(path).names}
    if unknown := sorted(set(wanted) - there):
        raise DatasetError(
            f"columns: must be columns of {[path.name for path in files]}, received {unknown}. They have {sorted(there)}."
        )


@dataclasses.dataclass(frozen=True)
class IdColumn:
    """Ids as codes into their distinct values; a refused id has code -1.

    Attributes:
        codes: int64 [rows].
        values: distinct ids [U], dtype object, all of them valid.
    """

    codes: np.ndarray
    values: np.ndarray


def read_ids(table: pa.Table, name: str, checks: RowChecks) -> IdColumn:
    """Ids as strings (whole numbers lose their `.0`); refuses missing, blank, multi-line and over-long ones."""
    codes, given = _coded(_plain_type(table[name]))
    distinct, broken = _as_text(given)
    rules = {
        "missing": pc.is_null(distinct),
        "not valid UTF-8": pa.array(broken),
        "blank": pc.match_substring_regex(distinct, r"^\s*$"),
        "has a control character or a line break": pc.match_substring_regex(distinct, BAD_ID_CHARACTERS),
        f"longer than {MAX_ID_BYTES} bytes": pc.greater(pc.binary_length(distinct), MAX_ID_BYTES),
    }
    valid = np.ones(len(distinct), np.bool_)
    checks.refuse(codes < 0, f"{name}: missing")
    for rule, failed in reversed(rules.items()):
        mask = _mask(pc.fill_null(failed, False))
        checks.refuse((codes >= 0) & _take(mask, codes), f"{name}: {rule}")
        valid &= ~mask
    renumber = np.where(valid, np.cumsum(valid) - 1, -1)
    values = distinct.to_pandas().to_numpy(dtype=object)[valid]
    return IdColumn(np.where(codes >= 0, _take(renumber, codes), -1), values)


@dataclasses.dataclass(frozen=True)
class NumberColumn:
    """float64 `values` (NaN where there is none), `missing` (no value given) and `bad` (NaN, infinite, no number)."""

    values: np.ndarray
    missing: np.ndarray
    bad: np.ndarray


def read_numbers(table: pa.Table, name: str) -> NumberColumn:
    """Numbers of any numeric type, of bool or of text."""
    column = _plain_type(table[name])
    missing = _mask(column.is_null())
    if pa.types.is_large_string(column.type):
        values = pd.to_numeric(_texts(column), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    elif pa.types.is_temporal(column.type):
        values = np.full(len(column), np.nan)
    else:
        values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    return NumberColumn(values, missing, ~missing & ~np.isfinite(values))


def read_timestamps(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """UTC seconds int64 [rows] (0 where bad) and the mask of bad or missing cells.

    Whole or fractional seconds, Parquet timestamps and dates (a naive one is UTC), and text of either kind (ISO 8601).
    """
    column = _plain_type(table[name])
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    if pa.types.is_large_string(column.type):
        codes, given = _coded(column)
        texts = _texts(given)
        seconds = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        dated = pd.to_datetime(texts.where(np.isnan(seconds)), errors="coerce", utc=True, format="ISO8601")
        since = dated.dt.as_unit("s").dt.tz_localize(None)
        parsed = since.to_numpy().astype("datetime64[s]").astype(np.int64).astype(np.float64)
        seconds = np.where(since.isna().to_numpy(), seconds, parsed)
        values = np.where(codes >= 0, _take(seconds, codes), np.nan)
    else:
        values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    # float64 is exact up to 2^53 seconds, far beyond any date; what lies outside is no time.
    bad = ~(np.abs(values) < 2.0**53)
    return np.floor(np.where(bad, 0, values)).astype(np.int64), bad


def read_words(table: pa.Table, name: str) -> tuple[np.ndarray, list[str]]:
    """Text cells as codes into distinct words, int64 [rows]; -1 where there is none."""
    codes, given = _coded(_plain_type(table[name]))
    return codes, _texts(given).fillna("").tolist()


def read_texts(table: pa.Table, name: str) -> np.ndarray:
    """Text cells as an object array; "" where there is none. Numbers and dates are written as text."""
    return _texts(_plain_type(table[name])).fillna("").to_numpy(dtype=object)


def as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of any type as strings, written as all ids are read; what is missing stays so, and texts stay as they are.

    Example:
        >>> as_texts(pa.chunked_array([[12345678901.0, None], [7.5]])).to_pylist()
        ['12345678901', None, '7.5']
    """
    plain = _plain_type(column)
    if not pa.types.is_large_string(plain.type):  # texts that are not valid are for whoever reads them to refuse
        plain = pa.chunked_array([_as_text(chunk)[0] for chunk in plain.chunks], pa.large_string())
    return plain.cast(pa.string())


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Codes into the distinct values, int64 [rows], -1 where there is none, and those values."""
    chunks = column.dictionary_encode().chunks  # they share one dictionary; to join the texts first would copy the column
    codes = [np.asarray(pc.fill_null(chunk.indices, -1), np.int64) for chunk in chunks]
    given = chunks[0].dictionary if chunks else pa.array([], column.type)
    return np.concatenate([np.zeros(0, np.int64), *codes]), given


def _texts(column: pa.Array | pa.ChunkedArray) -> pd.Series:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_as_text(chunk)[0].to_pandas().astype("str") for chunk in chunks]
    return pd.concat(parts, ignore_index=True) if parts else pd.Series([], dtype="str")


def _as_text(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Values as strings, and which of them are not valid UTF-8 (those are decoded with replacement characters)."""
    broken = np.zeros(len(values), np.bool_)
    if pa.types.is_floating(values.type):
        numbers = values.to_pandas().to_numpy(np.float64)
        whole = np.isfinite(numbers) & (np.floor(numbers) == numbers) & (np.abs(numbers) < 2.0**53)
        whole_texts = [str(int(x)) if w else repr(float(x)) for x, w in zip(numbers, whole, strict=True)]
        return pa.array(whole_texts, pa.large_string(), mask=np.isnan(numbers)), broken
    if not pa.types.is_large_string(values.type):
        return values.cast(pa.large_string()), broken
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        texts = ["" if cell is None else cell.decode("utf-8", errors="replace") for cell in raw]
        broken = np.array([text.encode() != (cell or b"") for cell, text in zip(raw, texts, strict=True)], np.bool_)
        return pa.array(texts, pa.large_string(), mask=np.array([cell is None for cell in raw])), broken
    return values, broken


def _plain_type(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without dictionary encoding, and every kind of text as `large_string`: a `string` array ends at 2 GiB of text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    return column.cast(pa.large_string() if text else kind)


def _supported(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _supported(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    moment = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    return text or number or moment or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _is_text_list(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _supported(kind.value_type)


def _mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False), np.bool_)


def _take(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`values[codes]`, for codes that may be -1 and values that may be empty (the caller masks those)."""
    return values[codes] if len(values) else np.zeros(len(codes), values.dtype)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
