"""Bad input: each kind of fault ends in the quarantine under its reason, or stops with a text that says what to do."""

import json
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.cleaning import clean_text
from data.columns import MAX_ID_BYTES, read_ids, read_numbers, read_parquet, read_timestamps
from data.ingest import IngestOptions, ingest
from data.validation import DatasetError, Quarantine, RowChecks

NOW = 1_700_000_000
OPTIONS = IngestOptions(now=NOW, split="random", seed=1)


def write(folder, **columns):
    """A log of 20 good events of 4 users and 5 items, with some columns replaced, written as Parquet."""
    events = {
        "user_id": [f"u{row % 4}" for row in range(20)],
        "item_id": [f"i{row % 5}" for row in range(20)],
        "timestamp": [NOW - 1000 + row for row in range(20)],
        "event": ["rating"] * 20,
        "value": [1.0 + row % 5 for row in range(20)],
    } | columns
    pq.write_table(pa.table({name: c for name, c in events.items() if c is not None}), folder / "interactions.parquet")
    return folder


def replaced(values, row, value):
    values = list(values)
    values[row] = value
    return values


IDS = [f"u{row % 4}" for row in range(20)]
TIMES = [NOW - 1000 + row for row in range(20)]
VALUES = [1.0 + row % 5 for row in range(20)]


@pytest.mark.parametrize(
    ("column", "cells", "reason"),
    [
        ("user_id", replaced(IDS, 3, None), "user_id: missing"),
        ("user_id", replaced(IDS, 3, "  "), "user_id: blank"),
        ("user_id", replaced(IDS, 3, "a\nb"), "user_id: has a control character"),
        ("item_id", replaced(IDS, 3, "x" * 600), "item_id: longer than 512 bytes"),
        ("timestamp", replaced(TIMES, 3, None), "timestamp: missing"),
        ("timestamp", replaced(TIMES, 3, -5), "timestamp: negative"),
        ("timestamp", replaced(TIMES, 3, NOW + 86_401), "timestamp: in the future"),
        ("timestamp", replaced(TIMES, 3, NOW * 1000), "timestamp: in the future"),
        ("timestamp", replaced(map(float, TIMES), 3, float("nan")), "timestamp: missing or not a time"),
        ("timestamp", replaced(map(str, TIMES), 3, "yesterday"), "timestamp: missing or not a time"),
        ("event", replaced(["rating"] * 20, 3, "teleport"), "event: must be among"),
        ("position", replaced([2] * 20, 3, 0), "position: must be a whole number"),
        ("position", replaced([2.0] * 20, 3, 1.5), "position: must be a whole number"),
        ("position", replaced(["2"] * 20, 3, "top"), "position: must be a whole number"),
        ("position", replaced([2] * 20, 3, 2**40), "position: must be a whole number"),
        ("propensity", replaced([0.5] * 20, 3, 0.0), "propensity: must be a probability"),
        ("propensity", replaced([1.0] * 20, 3, 1.01), "propensity: must be a probability"),
        ("propensity", replaced([0.5] * 20, 3, float("nan")), "propensity: must be a probability"),
        ("place_propensity", replaced([0.5] * 20, 3, 1.01), "place_propensity: must be a probability"),
        ("propensity", replaced([0.5] * 20, 3, 1e-300), "propensity: must be a probability"),
        ("event", replaced(["rating"] * 20, 3, None), "event: must be among"),
        ("value", replaced(VALUES, 3, float("nan")), "value: NaN"),
        ("value", replaced(VALUES, 3, float("inf")), "value: NaN, infinite"),
        ("value", replaced(VALUES, 3, 1e300), "value: NaN, infinite"),
        ("value", replaced(VALUES, 3, None), "value: missing (NaN)"),
        ("value", replaced(map(str, VALUES), 3, "many"), "value: NaN, infinite or not a number"),
    ],
)
def test_bad_cell_quarantines_its_row_only(tmp_path, column, cells, reason):
    dataset = ingest(write(tmp_path, **{column: cells}), tmp_path / "out", OPTIONS)
    lines = pd.read_parquet(tmp_path / "out/quarantine.parquet")
    assert len(dataset.events) == 19
    assert lines["row"].tolist() == [3]
    assert lines["file"].tolist() == ["interactions.parquet"]
    assert lines["reason"][0].startswith(reason)
    assert column in json.loads(lines["record"][0], parse_constant=pytest.fail)
    assert dataset.report["quarantined"] == 1


def test_nan_that_pandas_wrote_is_found_too(tmp_path):
    write(tmp_path)
    frame = pd.read_parquet(tmp_path / "interactions.parquet").assign(event="view")
    frame.loc[7, "value"] = np.nan
    frame.to_parquet(tmp_path / "interactions.parquet", index=False)
    dataset = ingest(tmp_path, tmp_path / "out", OPTIONS)
    assert dataset.report["event_reasons"] == {"value: missing (NaN) in a kind of event that carries one": 1}


def test_kinds_without_values_need_none(tmp_path):
    dataset = ingest(write(tmp_path, event=["view"] * 20, value=[None] * 19 + [4.0]), tmp_path / "out", OPTIONS)
    assert dataset.report["quarantined"] == 0
    assert np.isnan(dataset.events["value"]).sum() == 19


def test_duplicate_event_keeps_the_first(tmp_path):
    repeated = {"user_id": replaced(IDS, 9, IDS[4]), "timestamp": replaced(TIMES, 9, TIMES[4])}
    items = [f"i{row % 5}" for row in range(20)]
    dataset = ingest(write(tmp_path, item_id=replaced(items, 9, items[4]), **repeated), tmp_path / "out", OPTIONS)
    lines = pd.read_parquet(tmp_path / "out/quarantine.parquet")
    assert lines["row"].tolist() == [9] and lines["reason"][0].startswith("duplicate")
    assert len(dataset.events) == 19


def test_unknown_split_value(tmp_path):
    split = [*["train"] * 10, *["test"] * 9, "holdout"]
    write(tmp_path, split=split)
    dataset = ingest(tmp_path, tmp_path / "out", IngestOptions(now=NOW, split="given"))
    assert dataset.report["event_reasons"] == {"split: must be among train, valid, test": 1}


def test_column_of_unsupported_type_is_quarantined_and_ignored(tmp_path):
    write(tmp_path, context=[{"a": 1}] * 20)
    pq.write_table(
        pa.table({"user_id": ["u0"], "tags": [["x"]], "raw": pa.array([b"\x00"], pa.binary()), "age": [33]}),
        tmp_path / "users.parquet",
    )
    dataset = ingest(tmp_path, tmp_path / "out", OPTIONS)
    lines = pd.read_parquet(tmp_path / "out/quarantine.parquet")
    assert sorted(lines["row"]) == [-1, -1, -1]
    assert {json.loads(record)["column"] for record in lines["record"]} == {"context", "tags", "raw"}
    assert dataset.schema.profile == {"age": 2}


def test_bad_item_cells_are_dropped_and_the_item_kept(tmp_path):
    write(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "media/good.png").write_bytes(b"png")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media/link.png").symlink_to(tmp_path / "secret")
    paths = ["good.png", "../secret", str(tmp_path / "secret"), "link.png", "absent.png"]
    prices = [1.5, -1.0, float("nan"), None, 2.0]
    pq.write_table(
        pa.table({"item_id": [f"i{row}" for row in range(5)], "image": paths, "audio": [5] * 5, "price": prices}),
        tmp_path / "items.parquet",
    )
    dataset = ingest(tmp_path, tmp_path / "out", OPTIONS)
    assert dataset.items["image"].tolist() == ["", "good.png", "", "", "", ""]
    assert (dataset.items["audio"] == "").all()
    assert dataset.items["price"].fillna(-9).tolist() == [-9, 1.5, -9, -9, -9, 2]
    lines = pd.read_parquet(tmp_path / "out/quarantine.parquet")
    assert lines["reason"].str.partition(":")[0].value_counts().to_dict() == {"audio": 5, "image": 4, "price": 2}
    assert dataset.report["quarantined"] == 0 and dataset.report["rows"]["items"]["cells_dropped"] == 11


def test_repeated_and_unknown_items(tmp_path):
    write(tmp_path)
    pq.write_table(
        pa.table({"item_id": ["i0", "i1", "i2", "i3", "i0"], "title": ["first", "b", "c", "d", "second"]}),
        tmp_path / "items.parquet",
    )
    dataset = ingest(tmp_path, tmp_path / "out", OPTIONS)
    assert dataset.items["title"].tolist() == ["", "first", "b", "c", "d"]
    assert dataset.report["event_reasons"] == {"item_id: not in items.parquet": 4}
    assert dataset.report["quarantined"] == 5


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "must exist"),
        (lambda folder: (folder / "interactions.parquet").write_bytes(b"user_id,item_id\n"), "readable Parquet"),
        (lambda folder: write(folder, item_id=None), r"must have the column\(s\) \['item_id'\]"),
        (lambda folder: write(folder, user_id=[[1]] * 20), "'user_id' must be text or a number"),
        (lambda folder: write(folder, user_id=[None] * 20), "no event left of 20"),
    ],
)
def test_unusable_files_stop_with_what_to_do(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(DatasetError, match=message) as error:
        ingest(tmp_path, tmp_path / "out", OPTIONS)
    assert "interactions.parquet" in str(error.value)


def test_text_that_is_not_utf8_is_quarantined(tmp_path):
    broken = text_of([b"u1", b"\xff\xfe", b"u2"] + [b"u3"] * 17)
    dataset = ingest(write(tmp_path, user_id=broken), tmp_path / "out", OPTIONS)
    assert dataset.report["event_reasons"] == {"user_id: not valid UTF-8": 1}


def text_of(cells):
    """Bytes as a column of text, whatever they are."""
    return pa.StringArray.from_buffers(len(cells), *pa.array(cells, pa.binary()).buffers()[1:])


@pytest.mark.parametrize("lists", [True, False])
def test_cells_of_items_that_are_not_utf8_are_dropped_or_kept_as_far_as_they_can_be_read(tmp_path, lists):
    write(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.png").write_bytes(b"png")
    bad = b"a\xff"
    words = text_of([b"jazz", bad, b"jazz", b"jazz", b"jazz", bad])
    columns = {
        "item_id": ["i0", "i1", "i2", "i3", "i4", "i0"],
        "image": text_of([b"a.png", bad, b"a.png", b"a.png", b"a.png", bad]),
        "price": text_of([b"1", bad, b"1", b"1", b"1", bad]).dictionary_encode(),
        "created_at": text_of([b"9", bad, b"9", b"9", b"9", bad]),
        "tags": pa.ListArray.from_arrays(pa.array(range(7), pa.int32()), words) if lists else words,
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    items = ingest(tmp_path, tmp_path / "out", OPTIONS).items[1:]
    assert items["image"].tolist() == ["a.png", "", "a.png", "a.png", "a.png"]
    assert items["price"].fillna(-9).tolist() == [1, -9, 1, 1, 1] and items["created_at"].tolist() == [9, 0, 9, 9, 9]
    assert items["tags"].tolist() == ["jazz", "a\ufffd", "jazz", "jazz", "jazz"]
    lines = pd.read_parquet(tmp_path / "out/quarantine.parquet")
    told = {(line.row, line.reason.partition(":")[0]): json.loads(line.record) for line in lines.itertuples()}
    assert told.keys() == {(5, "item_id"), (1, "image"), (1, "price"), (1, "created_at")}
    assert told[1, "price"] == {"item_id": "i1", "price": "a\ufffd"} and "\ufffd" in str(told[5, "item_id"]["tags"])


@given(st.lists(st.one_of(st.none(), st.text(max_size=6), st.just("y" * (MAX_ID_BYTES + 1))), max_size=20))
def test_ids_are_parsed_or_refused(cells):
    cells = [None if cell is not None and any("\ud800" <= c <= "\udfff" for c in cell) else cell for cell in cells]
    checks = RowChecks(len(cells))
    ids = read_ids(pa.table({"id": pa.array(cells, pa.string())}), "id", checks)
    breaks = {chr(code) for code in (*range(0x20), 0x7F, 0x85, 0x2028, 0x2029)}
    for row, cell in enumerate(cells):
        sound = cell is not None and cell.strip() and not breaks & set(cell) and len(cell.encode()) <= MAX_ID_BYTES
        assert checks.accepted[row] == bool(sound)
        assert (ids.codes[row] >= 0) == bool(sound)
        if sound:
            assert ids.values[ids.codes[row]] == cell


@pytest.mark.parametrize(
    "kind", [pa.int16(), pa.int64(), pa.float64(), pa.string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_of_any_type_are_the_same_text(kind):
    column = pa.array([7, 12, None, 7]).cast(pa.string() if pa.types.is_dictionary(kind) else kind).cast(kind)
    checks = RowChecks(4)
    ids = read_ids(pa.table({"id": column}), "id", checks)
    assert [ids.values[code] if code >= 0 else None for code in ids.codes] == ["7", "12", None, "7"]
    assert checks.counts() == {"id: missing": 1}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1_000_000_000, None]),
        pa.array([1_000_000_000.9, float("nan")]),
        pa.array(["1000000000", "soon"]),
        pa.array(["2001-09-09T01:46:40Z", "2001-19-09"]),
        pa.array(["2001-09-09T03:46:40+02:00", None]),
        pa.array([1_000_000_000_000, None]).cast(pa.timestamp("ms")),
        pa.array([1_000_000_000_000_000, None]).cast(pa.timestamp("us", tz="Asia/Tokyo")),
    ],
)
def test_timestamps_of_every_form(column):
    values, bad = read_timestamps(pa.table({"t": column}), "t")
    assert values.tolist() == [1_000_000_000, 0]
    assert bad.tolist() == [False, True]


@given(st.lists(st.one_of(st.none(), st.floats(), st.integers(-(10**9), 10**9).map(float))))
def test_numbers_are_given_missing_or_bad(cells):
    numbers = read_numbers(pa.table({"n": pa.array(cells, pa.float64())}), "n")
    for cell, value, missing, bad in zip(cells, numbers.values, numbers.missing, numbers.bad, strict=True):
        assert missing == (cell is None)
        assert bad == (cell is not None and not np.isfinite(cell))
        assert cell is None or bad or value == cell


@given(st.text(max_size=200), st.integers(1, 50))
def test_clean_text_is_bounded_one_line_and_nfc(text, limit):
    cleaned = clean_text(text, limit)
    assert len(cleaned) <= limit
    assert cleaned == cleaned.strip() == unicodedata.normalize("NFC", cleaned)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in cleaned)


def test_text_is_unescaped_joined_and_bounded():
    assert clean_text("  caf\u0065\u0301 &lt;b&gt; \x07\u2028 爵士 ", 100) == "café <b> 爵士"
    assert clean_text("\x00 \t", 100) == ""
    assert clean_text("a\u200bb\ud800", 100) == "a\u200bb"  # lone surrogates cannot be encoded; joiners belong to scripts
    assert clean_text("word " * 10**6, 20) == "word word word word"


def test_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(DatasetError, match="convert"):
        read_parquet(tmp_path / "items.parquet", ["item_id"], Quarantine())
