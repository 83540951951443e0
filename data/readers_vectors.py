"""Ready-made vectors as published beside a data set: a `.npy` table, with the ids of its rows in a second file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.readers import texts
from data.validation import DatasetError


def read_vectors(source: Path, where: str) -> tuple[np.ndarray, list[str]]:
    """Vectors [rows, F_m] and their item ids from `vectors.npy` or `vectors.npy:ids.npy` (or ids.parquet)."""
    file, _, ids_file = where.partition(":")
    vectors = load_vectors(source / file)
    if not ids_file:
        return vectors, [str(row) for row in range(len(vectors))]
    if ids_file.endswith(".parquet"):
        table = pq.read_table(source / ids_file)
        return vectors, texts(table["item_id" if "item_id" in table.column_names else 0])
    return vectors, texts(pa.chunked_array([pa.array(np.ravel(load_vectors(source / ids_file)))]))


def load_vectors(path: Path) -> np.ndarray:
    """A `.npy` file, memory-mapped.

    Raises:
        DatasetError: not there, or not an array of numbers or text.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: must be a .npy array of plain values, received {error}.") from error
