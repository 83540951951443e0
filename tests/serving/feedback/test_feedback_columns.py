"""Feedback and added items in a dataset folder whose columns are of other types than a gateway's."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from serving.catalogue.live_items_dataset import add_items
from serving.catalogue.live_items_log import LiveItem, LiveItemsLog, LiveVector, put
from serving.feedback.compact import add_feedback
from serving.feedback.log import FeedbackLog


def test_columns_that_are_too_narrow_become_wider_and_what_is_not_new_is_not_written(tmp_path: Path) -> None:
    """Whole numbers, dates and empty columns of a log and a catalogue take what a gateway has kept."""
    source, day = tmp_path / "data", datetime.date(2023, 11, 1)
    source.mkdir()
    log: dict[str, Any] = {"user_id": ["u"], "item_id": ["i1"], "timestamp": [day], "value": [3]}
    events = {"position": pa.array([7], pa.int8()), "place_propensity": pa.nulls(1)}
    parquet.write_table(pa.table({**log, **events}), source / "interactions.parquet")
    items: dict[str, Any] = {"item_id": ["i1"], "price": [10], "created_at": [day], "domain": pa.nulls(1)}
    parquet.write_table(pa.table(items), source / "items.parquet")
    feedback, live = FeedbackLog(tmp_path / "feedback"), LiveItemsLog(tmp_path / "items")
    feedback.append([{
        "event_id": "a", "user_id": "ann", "item_id": "i1", "timestamp": 1_700_000_000, "event": "click", "received": 1,
        "value": 4.5, "position": 300, "propensity": 0.5,
    }])  # fmt: skip
    feedback.close()
    live.add(put(LiveItem("new", price=12.5, created_at=1_700_000_000, domain="shop"), LiveVector(1, False, None, None)))
    added = [add_items(live.folder, source)["added"], add_feedback(feedback.folder, source)["added"]]
    tables = {name: parquet.read_table(source / f"{name}.parquet") for name in ("interactions", "items")}
    assert added == [1, 1] and tables["interactions"].drop_columns(["event"]).to_pylist() == [
        {"user_id": "u", "item_id": "i1", "timestamp": 1_698_796_800, "value": 3.0, "position": 7, "place_propensity": None},
        {"user_id": "ann", "item_id": "i1", "timestamp": 1_700_000_000, "value": 4.5, "position": 300,
         "place_propensity": 0.5},
    ]  # fmt: skip
    assert tables["items"].select(["item_id", "price", "created_at", "domain"]).to_pylist() == [
        {"item_id": "i1", "price": 10.0, "created_at": day, "domain": None},
        {"item_id": "new", "price": 12.5, "created_at": datetime.date(2023, 11, 14), "domain": "shop"},
    ]
    stamps = [file.stat() for file in sorted(source.glob("*.parquet"))]
    assert add_feedback(feedback.folder, source) == {"before": 2, "added": 0, "after": 2}
    assert add_items(live.folder, source) == {"before": 2, "changed": 0, "added": 0, "after": 2}
    again = [file.stat() for file in sorted(source.glob("*.parquet"))]
    assert [(one.st_mtime_ns, one.st_ino) for one in again] == [(one.st_mtime_ns, one.st_ino) for one in stamps]


def test_long_ids_that_a_log_keeps_as_floats_stay_the_same_people_and_goods(tmp_path: Path) -> None:
    """pandas makes floats of a column of numbers with a gap; from 11 digits on these would be written with an exponent."""
    source, user, item = tmp_path / "data", 12_345_678_901.0, 98_765_432_109.0
    source.mkdir()
    log = {"user_id": [user, user, None], "item_id": [item, 2.0, 2.0], "timestamp": [1, 2, 3], "place": [10_203_040_506.0] * 3}
    parquet.write_table(pa.table(log), source / "interactions.parquet")
    parquet.write_table(pa.table({"item_id": [item, 2.0], "title": ["one", "two"]}), source / "items.parquet")
    live, feedback = LiveItemsLog(tmp_path / "items"), FeedbackLog(tmp_path / "feedback")
    live.add(put(LiveItem("98765432109", title="one, again"), LiveVector(1, False, None, None)))
    told = {"event": "click", "received": 1, "item_id": "98765432109", "place": "here"}
    feedback.append([{"event_id": "a", "user_id": "12345678901", "timestamp": 4, **told}])
    feedback.close()
    assert add_items(live.folder, source) == {"before": 2, "changed": 1, "added": 0, "after": 2}
    assert add_feedback(feedback.folder, source)["added"] == 1
    tables = {name: parquet.read_table(source / f"{name}.parquet") for name in ("interactions", "items")}
    assert tables["items"].select(["item_id", "title"]).to_pylist() == [
        {"item_id": "98765432109", "title": "one, again"}, {"item_id": "2", "title": "two"},
    ]  # fmt: skip
    found = {name: tables["interactions"][name].to_pylist() for name in ("user_id", "item_id", "place")}
    assert found["user_id"] == ["12345678901", "12345678901", None, "12345678901"]
    assert found["item_id"] == ["98765432109", "2", "2", "98765432109"]
    assert found["place"] == ["10203040506"] * 3 + ["here"]
