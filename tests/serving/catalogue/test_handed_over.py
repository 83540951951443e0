"""A change is put over a dataset's catalogue once: what a shop says of an item afterwards is newer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from serving.catalogue.handed_over import HandedOver
from serving.catalogue.live_items_dataset import add_items
from serving.catalogue.live_items_log import LiveItem, LiveItemsLog, LiveVector, put

VECTOR = LiveVector(1, False, None, None)


def shop(folder: Path, **titles: str) -> Path:
    """A dataset folder with a shop's whole catalogue."""
    folder.mkdir(exist_ok=True)
    pd.DataFrame({"item_id": list(titles), "title": list(titles.values())}).to_parquet(folder / "items.parquet")
    return folder


def titles_of(folder: Path) -> dict[str, str]:
    table = pd.read_parquet(folder / "items.parquet")
    return dict(zip(table["item_id"], table["title"], strict=True))


@pytest.fixture
def log(tmp_path: Path) -> LiveItemsLog:
    """A gateway's, with one change and one new item."""
    log = LiveItemsLog(tmp_path / "items")
    log.add(put(LiveItem("i1", title="changed"), VECTOR))
    log.add(put(LiveItem("new", title="added"), VECTOR))
    return log


def test_a_shops_newer_catalogue_stays_and_only_later_changes_come_over_it(log: LiveItemsLog, tmp_path: Path):
    data = shop(tmp_path / "data", i1="old", i2="old")
    assert add_items(log.folder, data) == {"before": 2, "changed": 1, "added": 1, "after": 3}
    assert titles_of(data) == {"i1": "changed", "i2": "old", "new": "added"}
    shop(data, i1="the shop's own", i2="the shop's own")
    log.add(put(LiveItem("i2", title="changed later"), VECTOR))
    assert add_items(log.folder, data) == {"before": 2, "changed": 1, "added": 1, "after": 3}
    assert titles_of(data) == {"i1": "the shop's own", "i2": "changed later", "new": "added"}, "what it lacks comes again"
    log.add(put(LiveItem("i1", title="changed"), VECTOR))  # the same as at first, and said again
    assert add_items(log.folder, data)["changed"] == 1 and titles_of(data)["i1"] == "changed"


def test_another_dataset_folder_and_another_log_begin_at_the_beginning(log: LiveItemsLog, tmp_path: Path):
    one, other = shop(tmp_path / "one", i1="old"), shop(tmp_path / "other", i1="old")
    for _ in range(2):
        add_items(log.folder, one)
    assert add_items(log.folder, other)["changed"] == 1 and titles_of(other) == {"i1": "changed", "new": "added"}
    size = HandedOver(log.folder, one).size()
    assert size == (log.folder / "changes.jsonl").stat().st_size == HandedOver(log.folder, other).size()
    (log.folder / "changes.jsonl").unlink()
    anew = LiveItemsLog(log.folder)
    for number in range(9):
        anew.add(put(LiveItem("i1", title=f"of another log {number}"), VECTOR))
    assert HandedOver(log.folder, one).size() == 0
    assert add_items(log.folder, one)["changed"] == 1 and titles_of(one)["i1"] == "of another log 8"


def test_what_a_kill_cut_off_is_handed_over_when_it_is_whole(log: LiveItemsLog, tmp_path: Path):
    data, file = shop(tmp_path / "data", i1="old"), log.folder / "changes.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert add_items(log.folder, data) == {"before": 1, "changed": 1, "added": 0, "after": 1}
    file.write_bytes(whole)
    assert add_items(log.folder, data) == {"before": 1, "changed": 0, "added": 1, "after": 2}
