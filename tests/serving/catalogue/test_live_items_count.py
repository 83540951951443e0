"""How many items there are, and how many more may be added."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import NEVER
from serving.catalogue.catalogue import Catalogue
from serving.catalogue.live_catalogue import LiveCatalogue
from serving.catalogue.live_items import LiveItems, TooManyItemsError
from serving.catalogue.live_items_log import LiveItem, LiveItemsLog, LiveVector, delete, put
from serving.status import ServingError
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


def test_held_items_do_not_count_while_the_next_release_places_them(tmp_path: Path) -> None:
    """25 items that the release holds, 20 that may be added beside them, and none is refused because a release begins."""
    release = Release()
    names = [f"i{number}" for number in range(25)]
    release.held = frozenset(names)
    live = LiveItems(LiveItemsLog(tmp_path), release, lambda path: b"", most=20)  # type: ignore[arg-type]
    live.follow(1)
    for name in names:
        live.put(LiveItem(name), {})
    release.version = 2
    live.follow(2)
    live.put(LiveItem("new"), {})
    again = LiveItems(LiveItemsLog(tmp_path), release, lambda path: b"", most=20)  # type: ignore[arg-type]
    again.put(LiveItem("newer"), {})  # a gateway that starts anew and has not heard yet which release answers
    assert live.refresh() == 25
    for number in range(18):
        live.put(LiveItem(f"more{number}"), {})
    with pytest.raises(TooManyItemsError):
        live.put(LiveItem("too many"), {})


def test_placing_many_items_makes_few_changes(tmp_path: Path) -> None:
    """As many times the work as there are items: each change rebuilds what the gateway shows and drops what it keeps."""
    release = Release()
    log = LiveItemsLog(tmp_path)
    old = LiveVector(1, True, None, None)
    for number in range(2_500):
        log.add(put(LiveItem(f"i{number}"), old))
    live = LiveItems(LiveItemsLog(tmp_path), release, lambda path: b"")  # type: ignore[arg-type]
    changes: list[int] = []
    live.on_change(lambda: changes.append(len(live.items)))
    release.version = 2
    live.follow(2)
    assert live.refresh() == 2_500 and live.refresh() == 0
    assert len(changes) <= 6  # 3 by number, and a slow machine's seconds


def test_what_was_placed_before_a_fault_and_what_changed_meanwhile(tmp_path: Path) -> None:
    release = Release()
    live = LiveItems(LiveItemsLog(tmp_path), release, lambda path: b"")  # type: ignore[arg-type]
    other = LiveItemsLog(tmp_path)  # of another gateway on the folder
    live.follow(1)
    for number in range(20):
        live.put(LiveItem(f"i{number}"), {})
    release.version = 2
    live.follow(2)
    place, calls = release.place, []

    def fails_at_the_third(items, read) -> list[LiveVector]:
        calls.append(len(items))
        if len(calls) == 2:
            other.add(delete("i0"))
            other.add(put(LiveItem("i1", title="anew"), LiveVector(3, False, np.ones(2, np.float32), None)))
        if len(calls) == 3:
            raise ServingError(grpc.StatusCode.UNAVAILABLE, "away")
        return place(items, read)

    release.place = fails_at_the_third  # type: ignore[method-assign]
    with pytest.raises(ServingError):
        live.refresh()
    snapshot = live.snapshot()
    assert snapshot is not None and sorted(snapshot.ids) == sorted(f"i{number}" for number in range(2, 16))
    assert live.refresh() == 5  # the four that were left, and the one that was changed
    snapshot = live.snapshot()
    assert snapshot is not None and set(snapshot.ids) == {f"i{number}" for number in range(1, 20)}


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


@given(
    counts=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    among=st.lists(st.sampled_from([*(f"i{row}" for row in range(1, 13)), "unknown"]), max_size=15),
    exclude=st.sets(st.sampled_from([f"i{row}" for row in range(1, 13)]), max_size=4),
    k=st.integers(1, 12),
)
@settings(max_examples=50, deadline=None)
def test_popular_items_of_a_list_are_those_of_all_that_are_on_it(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], among: list[str], exclude: set[str], k: int
) -> None:
    run, _ = write_folders(tmp_path_factory.mktemp("run"))
    np.save(run / "ingest" / "counts.npy", np.array([99, *counts]))
    catalogue = Catalogue(run / "ingest")
    everything = [item_id for item_id in catalogue.popular(12) if item_id in among and item_id not in exclude]
    assert catalogue.popular(k, exclude, among) == everything[:k]
    assert catalogue.popular(k, exclude, iter(among)) == everything[:k]


def test_a_list_of_few_items_walks_through_no_others(tmp_path: Path) -> None:
    run, _ = write_folders(tmp_path)
    catalogue = Catalogue(run / "ingest")
    catalogue._popular = catalogue._popular.view(Walked)
    assert catalogue.popular(3, (), ["i12", "i9"]) == ["i9", "i12"]
    assert catalogue.popular(3) == ["i1", "i2", "i3"]
    with pytest.raises(AssertionError, match="walked on"):
        catalogue.popular(12)


class Walked(np.ndarray):
    """An array that may be walked through as far as its fourth value."""

    def __iter__(self):
        yield from np.asarray(self)[:4]
        if len(self) > 4:
            raise AssertionError("walked on")
