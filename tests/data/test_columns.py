"""Columns in many chunks say what they say in one, and text beyond the 2 GiB that one array holds can be read."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.catalogue import accept_rows
from data.columns import read_ids, read_numbers, read_parquet, read_texts, read_timestamps, read_words
from data.validation import Quarantine, RowChecks

ROWS, ROW_BYTES = 22, 100_000_000


@pytest.fixture
def beyond():
    """Rows without a value that nevertheless have 100 MB each, of memory that nobody touches."""
    ends, zeros = pa.py_buffer(np.array([0, ROW_BYTES], np.int32)), pa.py_buffer(np.zeros(ROW_BYTES, np.uint8))
    row = pa.StringArray.from_buffers(1, ends, zeros, pa.py_buffer(b"\0"), 1)
    column = pa.chunked_array([row] * ROWS)
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        column.combine_chunks()
    return pa.table({"item_id": ["a", "b"] * (ROWS // 2), "text": column})


def test_text_beyond_two_gib_is_read(beyond):
    checks = RowChecks(ROWS)
    assert (read_ids(beyond, "text", checks).codes == -1).all() and checks.counts() == {"text: missing": ROWS}
    codes, words = read_words(beyond, "text")
    assert (codes == -1).all() and words == []
    assert read_timestamps(beyond, "text")[1].all() and read_numbers(beyond, "text").missing.all()
    assert read_texts(beyond, "text").tolist() == [""] * ROWS


def test_rows_of_a_table_beyond_two_gib_are_chosen(beyond):
    quarantine = Quarantine()
    table, rows, counts = accept_rows(beyond, "item_id", "items.parquet", quarantine)
    assert table["item_id"].to_pylist() == ["a", "b"] and rows.tolist() == [0, 1]
    assert counts == {"read": ROWS, "accepted": 2, "quarantined": ROWS - 2}
    lines = quarantine.to_frame()
    assert lines["row"].tolist() == list(range(2, ROWS)) and lines["record"][0] == '{"item_id": "a", "text": null}'


def test_row_labels_of_pandas_are_no_column(tmp_path):
    frame = pd.DataFrame({"user_id": ["a", "b", "c", "d"], "device": ["x", "y", "x", "x"]})
    frame[frame["device"] == "x"].to_parquet(tmp_path / "interactions.parquet")
    quarantine = Quarantine()
    assert "__index_level_0__" in pq.read_schema(tmp_path / "interactions.parquet").names
    table = read_parquet(tmp_path / "interactions.parquet", ["user_id"], quarantine)
    assert table.column_names == ["user_id", "device"]
    assert quarantine.to_frame()["reason"].tolist() == [
        "column: row labels that pandas has kept, the column is ignored"
    ]


CELLS = ["x", None, "7", "x", "2001-09-09", "", "y"]


@pytest.mark.parametrize("cuts", [[], [1], [0, 3, 3, 7], [1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_chunks_make_no_difference(kind, cuts):
    whole = pa.array(CELLS)
    parts = [whole[start:end].cast(kind) for start, end in zip([0, *cuts], [*cuts, len(CELLS)], strict=True)]
    table, checks = pa.table({"c": pa.chunked_array(parts, kind)}), RowChecks(len(CELLS))
    ids = read_ids(table, "c", checks)
    assert [None if code < 0 else ids.values[code] for code in ids.codes] == ["x", None, "7", "x", "2001-09-09", None, "y"]
    assert checks.counts() == {"c: missing": 1, "c: blank": 1}
    codes, words = read_words(table, "c")
    assert [None if code < 0 else words[code] for code in codes] == CELLS
    assert read_texts(table, "c").tolist() == ["x", "", "7", "x", "2001-09-09", "", "y"]
    assert read_timestamps(table, "c")[0].tolist() == [0, 0, 7, 0, 999_993_600, 0, 0]
    assert np.flatnonzero(~read_numbers(table, "c").bad).tolist() == [1, 2]


def test_a_column_without_rows_has_no_chunks():
    table = pa.table({"c": pa.chunked_array([], pa.string())})
    assert read_texts(table, "c").tolist() == read_words(table, "c")[1] == read_timestamps(table, "c")[0].tolist() == []
