"""MMRec's folders: one `.inter` table whose `x_label` is the split, and `<modality>_feat.npy`, row = item number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from data.readers import Conversion, DatasetWriter, read_delimited, with_numbers
from data.readers_table import split_words
from data.readers_vectors import load_vectors
from data.schema import MODALITIES
from data.validation import DatasetError

COLUMNS = {"userID": "user_id", "itemID": "item_id", "rating": "value", "timestamp": "timestamp", "x_label": "split"}
SPLITS = {"train": "0", "valid": "1", "test": "2"}


def convert_mmrec(source: str | Path, out: str | Path) -> Conversion:
    """Convert a folder of the MMRec benchmark (Zhou, 2023, arXiv:2302.03497).

    `text_feat.npy`, `image_feat.npy` and `audio_feat.npy` become ready-made vectors; row k belongs to item number k.
    Ratings become events of the kind `interaction`, because the benchmark takes every line as a positive.

    Raises:
        DatasetError: not exactly one `.inter` file, a missing column, or fewer vectors than items.
    """
    writer = DatasetWriter(Path(source), Path(out))
    logs = sorted(writer.source.glob("*.inter"))
    if len(logs) != 1:
        raise DatasetError(f"{source}: must hold one .inter file, received {[log.name for log in logs]}.")
    table, broken = read_delimited(logs[0], delimiter="\t", quoted=False)
    writer.leave_out(f"{logs[0].name}: lines with a wrong number of fields", broken)
    missing = sorted({"userID", "itemID", "x_label"} - set(table.column_names))
    if missing:
        raise DatasetError(f"{logs[0]}: must have the columns {missing}, received {table.column_names}.")
    kept = {name: ours for name, ours in COLUMNS.items() if name in table.column_names}
    table = table.select(list(kept)).rename_columns(list(kept.values()))
    table, left_out = split_words(with_numbers(table, ["value", "timestamp", "split"]), SPLITS)
    writer.leave_out(f"{logs[0].name}: rows outside the split", left_out)
    writer.interactions(table)

    numbers = with_numbers(table, ["item_id"])["item_id"]
    if not pa.types.is_integer(numbers.type):
        raise DatasetError(f"{logs[0]}: itemID must be a row number, received other text in it.")
    ids = sorted(set(numbers.drop_null().to_pylist()))
    writer.items(pa.table({"item_id": pa.array([str(id_) for id_ in ids], pa.string())}))
    for modality in MODALITIES:
        path = writer.source / f"{modality}_feat.npy"
        if not path.is_file():
            continue
        vectors = load_vectors(path)
        if ids and ids[-1] >= len(vectors):
            raise DatasetError(f"{path}: must have a row for item {ids[-1]}, received {len(vectors)} rows.")
        writer.features(modality, vectors, [str(row) for row in np.arange(len(vectors))])
    return writer.close()
