"""What every reader of a public format shares: writing a dataset folder with its media and ready-made vectors.

A reader is `convert_<format>(source, out, ...) -> Conversion`. It fills `out`, an empty or new folder (the caller
renames it when whole), and changes names and types only: judging rows is the ingest's work, so faulty cells pass.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from data.columns import as_texts
from data.schema import MODALITIES
from data.validation import DatasetError

MediaMode = Literal["copy", "link"]
MEDIA_COLUMNS = ("image", "audio", "video")
ID_COLUMNS = ("item_id", "user_id")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a reader did.

    Attributes:
        folder: the dataset folder.
        counts: `interactions`, `items`, `users`, `<medium>` files and `features_<modality>` rows written.
        left_out: what was not taken over, with its count: nothing is dropped without being named here.
    """

    folder: Path
    counts: dict[str, int]
    left_out: dict[str, int]


class DatasetWriter:
    """Collects the parts of one dataset folder.

    Raises:
        DatasetError: the source is no folder, or `out` already holds something.
    """

    def __init__(self, source: Path, out: Path, *, media_mode: MediaMode = "copy") -> None:
        if not source.is_dir():
            raise DatasetError(f"source: must be a folder, received {source}. Unpack the archive and name its folder.")
        if out.is_dir() and any(out.iterdir()):
            raise DatasetError(f"out: must be empty or new, received {out}. Choose another folder.")
        out.mkdir(parents=True, exist_ok=True)
        self.source, self.out, self.media_mode = source, out, media_mode
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self._items: set[str] | None = None

    def interactions(self, table: pa.Table) -> None:
        self._write("interactions", table)

    def users(self, table: pa.Table) -> None:
        self._write("users", table)

    def items(self, table: pa.Table) -> None:
        """Write the catalogue; its media columns hold paths under `source`, whose files come along under `media/`."""
        self._items = set(texts(table["item_id"]))
        for name in [column for column in MEDIA_COLUMNS if column in table.column_names]:
            paths = [self._medium(name, path) for path in texts(table[name])]
            self.counts[name] = sum(path is not None for path in paths)
            table = table.set_column(table.column_names.index(name), name, pa.array(paths, pa.string()))
        self._write("items", table)

    def features(self, modality: str, vectors: np.ndarray, ids: Sequence[str]) -> None:
        """Write ready-made vectors [rows, F_m]; call after `items`, because rows of other items are left out.

        Raises:
            DatasetError: an unknown modality, no table of numbers, or another number of ids than of rows.
        """
        if modality not in MODALITIES:
            raise DatasetError(f"features: the modality must be among {MODALITIES}, received {modality!r}.")
        if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or len(vectors) != len(ids):
            raise DatasetError(
                f"features {modality}: must be numbers [rows, width] with one id a row, received {vectors.dtype} "
                f"{vectors.shape} and {len(ids)} ids. Name the file of ids: {modality}=vectors.npy:ids.npy."
            )
        kept = np.array([self._items is None or id_ in self._items for id_ in ids], np.bool_)
        (self.out / "features").mkdir(exist_ok=True)
        np.save(self.out / f"features/{modality}.npy", vectors if kept.all() else vectors[kept])
        names = pd.DataFrame({"item_id": np.asarray(ids, dtype=object)[kept]}).astype("str")
        names.to_parquet(self.out / f"features/{modality}.ids.parquet", index=False)
        self.counts[f"features_{modality}"] = int(kept.sum())
        self.leave_out(f"features {modality}: rows of items not in the catalogue", int((~kept).sum()))

    def leave_out(self, what: str, count: int) -> None:
        """Note something that is not taken over."""
        if count:
            self.left_out[what] = self.left_out.get(what, 0) + int(count)

    def close(self) -> Conversion:
        return Conversion(self.out, self.counts, self.left_out)

    def _write(self, name: str, table: pa.Table) -> None:
        for column in ID_COLUMNS:
            if column in table.column_names and pa.types.is_integer(table[column].type):
                position = table.column_names.index(column)
                table = table.set_column(position, column, table[column].cast(pa.string()))
        pq.write_table(table, self.out / f"{name}.parquet")
        self.counts[name] = table.num_rows

    def _medium(self, name: str, path: str) -> str | None:
        """Bring one file along; returns its path under `media/`, None if there is none to bring."""
        if not path:
            return None
        origin = self.source / path
        real, root = os.path.realpath(origin), os.path.realpath(self.source)
        if os.path.isabs(path) or os.path.commonpath([root, real]) != root:
            self.leave_out(f"{name}: paths that lead out of the source folder", 1)
            return None
        if not os.path.isfile(real):
            self.leave_out(f"{name}: files that do not exist", 1)
            return None
        kept = os.path.normpath(path).replace(os.sep, "/").removeprefix("media/")
        target = self.out / "media" / kept
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            if self.media_mode == "link":
                os.link(real, target)
            else:
                shutil.copyfile(real, target)
        return kept


def read_delimited(
    path: Path,
    *,
    delimiter: str = ",",
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    quoted: bool = True,
) -> tuple[pa.Table, int]:
    """A text table with every column as text, and the number of lines with a wrong number of fields.

    Args:
        path: the file.
        delimiter: one or more characters ("::" in MovieLens); several are replaced by one before parsing.
        names: column names, if the file has no line of them.
        encoding: of the file.
        quoted: whether fields may stand in double quotes (and then hold line breaks).

    Raises:
        DatasetError: no such file, or not in this form.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: the file must exist, found none. Check the folder and the format's name.")
    broken: list[int] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        broken.append(1)
        return "skip"

    try:
        raw = path.read_bytes().decode(encoding)
        if len(delimiter) > 1:
            raw, delimiter = raw.replace(delimiter, "\x1f"), "\x1f"
        data = pa.BufferReader(raw.encode())
        first = raw.split("\n", 1)[0].rstrip("\r").removeprefix("\ufeff")
        header = list(names) if names else [cell.strip().strip('"') for cell in first.split(delimiter)]
        table = pa_csv.read_csv(
            data,
            read_options=pa_csv.ReadOptions(column_names=header, skip_rows=0 if names else 1, use_threads=False),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=skip,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path}: must be a text table in {encoding} with fields separated by {delimiter!r}, received "
            f"{str(error).splitlines()[0]!r}. Name the right encoding or separator."
        ) from error
    return table, len(broken)


def with_numbers(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Columns of text that are numbers throughout, as numbers; any other stays text for the ingest to judge."""
    for name in [column for column in columns if column in table.column_names]:
        for kind in (pa.int64(), pa.float64()):
            try:
                table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
            except pa.ArrowInvalid:
                continue
            break
    return table


def texts(column: pa.ChunkedArray) -> list[str]:
    """Cells as text, ids as they are read everywhere; "" where there is none.

    Example:
        >>> texts(pa.chunked_array([[12345678901.0, None]]))
        ['12345678901', '']
    """
    return pc.fill_null(as_texts(column), "").to_pylist()
