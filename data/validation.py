"""What is done with bad input: a whole file or column is refused with an error, a bad row goes to the quarantine.

A row that fails several checks is counted once, under the first reason, so that every count adds up:
rows read = rows accepted + rows quarantined. A bad *cell* (a price, a media path) is dropped and its row kept; its
quarantine line names the cell, and it is not counted as a quarantined row.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

QUARANTINE_COLUMNS = ("file", "row", "reason", "record")
WHOLE_COLUMN = -1
"""The row number of a quarantine line that stands for a whole column."""
MAX_CELL = 300
"""Characters kept of one text cell in a quarantine record."""


class DatasetError(ValueError):
    """Input that cannot be used at all: names the file, the column or rule, what was received and what to do."""


class RowChecks:
    """Collects, for the rows of one file, the first reason why each is refused.

    Example:
        >>> checks = RowChecks(3)
        >>> checks.refuse(np.array([False, True, True]), "user_id: missing")
        >>> checks.refuse(np.array([False, False, True]), "timestamp: missing")
        >>> checks.accepted.tolist(), checks.counts()
        ([True, False, False], {'user_id: missing': 2})
    """

    def __init__(self, rows: int) -> None:
        self._code = np.zeros(rows, np.int16)
        self._reasons = [""]

    @property
    def accepted(self) -> np.ndarray:
        """bool [rows]: not refused so far."""
        return self._code == 0

    def refuse(self, mask: np.ndarray, reason: str) -> None:
        """Refuse the rows of `mask` (bool [rows]) that no earlier check refused."""
        fresh = mask & (self._code == 0)
        if fresh.any():
            self._reasons.append(reason)
            self._code[fresh] = len(self._reasons) - 1

    def refused(self) -> tuple[np.ndarray, list[str]]:
        """Row numbers in file order and, for each, its reason."""
        rows = np.flatnonzero(self._code)
        return rows, [self._reasons[code] for code in self._code[rows]]

    def counts(self) -> dict[str, int]:
        """How many rows each reason refused."""
        of_code = np.bincount(self._code, minlength=len(self._reasons))
        return {reason: int(count) for reason, count in zip(self._reasons[1:], of_code[1:], strict=True)}


@dataclasses.dataclass
class Quarantine:
    """The lines of `quarantine.parquet`: `file`, `row` (0-based, in the source; -1 = a column), `reason`, `record`."""

    _files: list[str] = dataclasses.field(default_factory=list)
    _rows: list[int] = dataclasses.field(default_factory=list)
    _reasons: list[str] = dataclasses.field(default_factory=list)
    _records: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self._rows)

    def add_rows(self, file: str, table: pa.Table, rows: np.ndarray, reasons: list[str]) -> None:
        """Add rows of a table that was read from `file`, in ascending order, with their content as the record."""
        if not len(rows):
            return
        self._files += [file] * len(rows)
        self._rows += [int(row) for row in rows]
        self._reasons += reasons
        mask = np.zeros(table.num_rows, np.bool_)
        mask[rows] = True
        refused = table.filter(pa.array(mask))  # `take` would join the chunks, which beyond 2 GiB of text raises
        columns = [readable(column) for column in refused.columns]
        names = table.column_names
        self._records += [_record(dict(zip(names, cells, strict=True))) for cells in zip(*columns, strict=True)]

    def add_cell(self, file: str, row: int, reason: str, record: dict[str, Any]) -> None:
        """Add one dropped cell; its row stays in the dataset."""
        self._files.append(file)
        self._rows.append(int(row))
        self._reasons.append(reason)
        self._records.append(_record(record))

    def add_column(self, file: str, column: str, reason: str) -> None:
        """Add a whole column that is ignored."""
        self.add_cell(file, WHOLE_COLUMN, reason, {"column": column})

    def to_frame(self) -> pd.DataFrame:
        columns = (self._files, np.array(self._rows, np.int64), self._reasons, self._records)
        return pd.DataFrame(dict(zip(QUARANTINE_COLUMNS, columns, strict=True))).astype(
            {"file": "str", "reason": "str", "record": "str"}
        )

    def write(self, path: str | Path) -> None:
        self.to_frame().to_parquet(path, index=False)


def readable(column: pa.ChunkedArray) -> list[Any]:
    """Cells as Python values; text that is not UTF-8 would raise, and is decoded with replacement characters."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        raw = column.cast(pa.large_list(pa.large_binary()) if lists else pa.large_binary())
        return [_decoded(cell) for cell in raw.to_pylist()]


def _decoded(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_decoded(part) for part in cell]
    return cell.decode("utf-8", errors="replace") if isinstance(cell, bytes) else cell


def _record(record: dict[str, Any]) -> str:
    return json.dumps({name: _plain(value) for name, value in record.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A cell as strict JSON: NaN and infinities become text, long text is cut, everything else is shown as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value if len(value) <= MAX_CELL else value[:MAX_CELL] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:MAX_CELL]
