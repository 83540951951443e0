"""How many items there are, and how many more may be added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.dataset import NEVER
from serving.catalogue.catalogue import Catalogue
from serving.catalogue.live_catalogue import LiveCatalogue
from serving.catalogue.live_items import LiveItems, TooManyItemsError
from serving.catalogue.live_items_log import LiveItem, LiveItemsLog, LiveVector
from tests.serving.gateway_folders import write_folders


class Release:
    """Places items: each of `held` where training put it, any other where its content says."""

    def __init__(self) -> None:
        self.version, self.held = 1, frozenset[str]()

    def place(self, items, read) -> list[LiveVector]:
        places = (None if item.item_id in self.held else np.ones(2, np.float32) for item in items)
        return [LiveVector(self.version, place is None, place, None) for place in places]


def test_what_the_answering_release_holds_by_now_does_not_count(tmp_path: Path) -> None:
    release = Release()
    live = LiveItems(LiveItemsLog(tmp_path), release, lambda path: b"", most=2)  # type: ignore[arg-type]
    live.follow(1)
    for name in ("a", "b"):
        live.put(LiveItem(name), {})
    with pytest.raises(TooManyItemsError, match="at most 2 may be added to one release"):
        live.put(LiveItem("c"), {})
    release.version, release.held = 2, frozenset("ab")  # trained on the catalogue with them
    live.follow(2)
    with pytest.raises(TooManyItemsError):  # not placed yet
        live.put(LiveItem("c"), {})
    assert live.refresh() == 2
    live.put(LiveItem("c"), {})
    live.put(LiveItem("d"), {})
    with pytest.raises(TooManyItemsError):
        live.put(LiveItem("e"), {})


def test_counting_the_items_reads_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, source = write_folders(tmp_path)
    catalogue = LiveCatalogue(run, source / "media", LiveItemsLog(tmp_path / "items"))
    catalogue.change([LiveItem("i3"), LiveItem("new"), LiveItem("more")], frozenset(["i1", "never there"]))
    monkeypatch.setattr(Catalogue, "item", None)
    assert catalogue.item_count == 12 + 2 - 1


def test_an_item_that_is_gone_is_in_no_list_and_may_be_added_again(tmp_path: Path) -> None:
    run, source = write_folders(tmp_path)
    file = run / "ingest" / "items.parquet"
    items = pd.read_parquet(file)
    before = Catalogue(run / "ingest")
    first = before.popular(1)[0]
    items.loc[items["item_id"] == first, "created_at"] = NEVER
    items.assign(created_at=items["created_at"].fillna(0).astype("int64")).to_parquet(file)
    catalogue = LiveCatalogue(run, source / "media", LiveItemsLog(tmp_path / "items"))
    assert catalogue.popular(12) == before.popular(12)[1:]
    assert all(first not in ids for ids in catalogue.domains.values())
    shown = catalogue.item(first)
    assert shown is not None and shown.created is None  # histories still name it
    texts = {name: getattr(shown, name) for name in ("title", "description", "image", "audio", "video")}
    again = LiveItem(first, categories=shown.categories.replace(", ", "|"), **texts)
    assert not catalogue.released(again)  # placed by its content, for the release answers it no more
