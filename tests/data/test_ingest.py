"""The ingest as a whole: rows, codes, splits and counts against loops over the input; nothing is lost."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from data.schema import EVENT_CODES, SPLIT_CODES, TEST, TRAIN
from data.validation import DatasetError

NOW = 1_700_000_000
EVENTS = pd.DataFrame(
    {
        "user_id": ["b", "a", "b", "a", "stranger", "b", "a", "c"],
        "item_id": ["i1", "i1", "i2", "i3", "i2", "i3", "i2", "i1"],
        "timestamp": [50, 20, 10, 40, 30, 60, 70, 80],
        "event": ["view", "like", "view", "skip", "purchase", "view", "view", "view"],
        "split": ["train", "train", "train", "train", "train", "valid", "test", "train"],
    }
)
ITEMS = pd.DataFrame(
    {
        "item_id": ["i3", "i1", "i2", "new"],
        "title": ["Three &amp; more", "One", None, "New"],
        "categories": ["jazz|live", "jazz", "rock", None],
        "domain": ["music", "music", "speech", "music"],
        "price": [1.0, None, 3.5, 2.0],
        "label": ["z", "y", "z", "z"],
    }
)
USERS = pd.DataFrame({"user_id": ["c", "b", "a", "idle"], "age": [30, 25, 25, None], "bio": ["?"] * 4})


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    EVENTS.to_parquet(folder / "interactions.parquet", index=False)
    ITEMS.to_parquet(folder / "items.parquet", index=False)
    USERS.to_parquet(folder / "users.parquet", index=False)
    return folder


def test_rows_follow_the_files_then_the_log(source, tmp_path):
    dataset = ingest(source, tmp_path / "out")
    assert dataset.users["user_id"].tolist() == ["", "c", "b", "a", "idle", "stranger"]
    assert dataset.items["item_id"].tolist() == ["", "i3", "i1", "i2", "new"]
    assert (dataset.schema.user_rows, dataset.schema.item_rows) == (6, 5)
    assert dataset.schema.has_timestamps


def test_events_are_the_input_sorted_by_user_and_time(source, tmp_path):
    dataset = ingest(source, tmp_path / "out")
    users, items = dataset.users["user_id"].tolist(), dataset.items["item_id"].tolist()
    expected = sorted((users.index(row.user_id), row.timestamp, index) for index, row in EVENTS.iterrows())
    lines = [
        (
            user,
            items.index(EVENTS.item_id[index]),
            time,
            EVENT_CODES[EVENTS.event[index]],
            SPLIT_CODES[EVENTS.split[index]],
        )
        for user, time, index in expected
    ]
    columns = dataset.events[["user", "item", "timestamp", "event", "split"]]
    assert list(columns.itertuples(index=False, name=None)) == lines


def test_counts_are_positive_training_events(source, tmp_path):
    dataset = ingest(source, tmp_path / "out")
    chosen = EVENTS[(EVENTS.split == "train") & (EVENTS.event != "skip")]
    assert dataset.counts.tolist() == [0, *((chosen.item_id == id_).sum() for id_ in ITEMS.item_id)]
    assert dataset.counts.dtype == np.int64


def test_profile_and_attribute_codes_by_frequency_then_value(source, tmp_path):
    dataset = ingest(source, tmp_path / "out")
    assert dataset.profile_vocabulary == {"age": ["", "25", "30"]}
    assert dataset.users["profile_age"].tolist() == [0, 2, 1, 1, 0, 0]
    assert dataset.attribute_vocabulary == {
        "label": ["", "z", "y"],
        "domain": ["", "music", "speech"],
        "category": ["", "jazz", "rock"],
    }
    assert dataset.items["attribute_label"].tolist() == [0, 1, 2, 1, 1]
    assert dataset.items["attribute_category"].tolist() == [0, 1, 1, 2, 0]
    assert dataset.attributes.shape == (5, 3) and dataset.profile.shape == (6, 1)
    assert dataset.items["title"].tolist() == ["", "Three & more", "One", "", "New"]


def test_save_and_load_are_equal(source, tmp_path):
    dataset = ingest(source, tmp_path / "out")
    loaded = Dataset.load(tmp_path / "out")
    for name in ("events", "users", "items"):
        pd.testing.assert_frame_equal(getattr(dataset, name), getattr(loaded, name))
    assert (loaded.schema, loaded.report) == (dataset.schema, dataset.report)
    np.testing.assert_array_equal(loaded.positive, dataset.positive)
    assert list(loaded.item_ids) == ITEMS.item_id.tolist()
    assert (tmp_path / "out/item_ids.txt").read_text() == "\ni3\ni1\ni2\nnew\n"


def test_same_input_same_bytes(source, tmp_path):
    for name in ("one", "two"):
        ingest(source, tmp_path / name, IngestOptions(split="random", seed=3, now=NOW))
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_folder_with_a_missing_row_is_refused(source, tmp_path):
    ingest(source, tmp_path / "out")
    ITEMS.to_parquet(tmp_path / "out/items.parquet")
    with pytest.raises(DatasetError, match=r"items\.parquet: must have 5 rows"):
        Dataset.load(tmp_path / "out")
    with pytest.raises(DatasetError, match="Run `ingest`"):
        Dataset.load(tmp_path)


def test_without_tables_everything_comes_from_the_log(tmp_path):
    EVENTS.drop(columns=["split", "event"]).to_parquet(tmp_path / "interactions.parquet", index=False)
    dataset = ingest(tmp_path, tmp_path / "out")
    assert dataset.report["split"] == "global_time"
    assert dataset.users["user_id"].tolist() == ["", "a", "b", "c", "stranger"]
    assert dataset.items["item_id"].tolist() == ["", "i1", "i2", "i3"]
    assert (dataset.events["event"] == EVENT_CODES["interaction"]).all() and dataset.positive.all()
    train, test = (dataset.events[dataset.events["split"] == code]["timestamp"] for code in (TRAIN, TEST))
    assert train.max() < test.min()


def test_auto_falls_back_to_random_without_times(tmp_path):
    EVENTS[["user_id", "item_id"]].to_parquet(tmp_path / "interactions.parquet", index=False)
    dataset = ingest(tmp_path, tmp_path / "out", IngestOptions(valid_fraction=0.25, test_fraction=0.25))
    assert dataset.report["split"] == "random" and not dataset.schema.has_timestamps
    assert dataset.report["events_by_split"] == {"train": 4, "valid": 2, "test": 2}
    for split in ("global_time", "leave_last_out"):
        with pytest.raises(DatasetError, match="needs the column `timestamp`"):
            ingest(tmp_path, tmp_path / "other", IngestOptions(split=split))


def test_positive_events_and_threshold(tmp_path):
    frame = EVENTS.assign(value=[5.0, 1, 4, 3, 2, 5, 5, 5])
    frame.to_parquet(tmp_path / "interactions.parquet", index=False)
    dataset = ingest(tmp_path, tmp_path / "out", IngestOptions(min_value=4.0))
    assert dataset.positive.sum() == ((frame.value >= 4) & (frame.event != "skip")).sum()
    dataset = ingest(tmp_path, tmp_path / "views", IngestOptions(positive_events=("view",)))
    assert dataset.positive.sum() == (frame.event == "view").sum()


def test_k_core_removes_events_users_and_items(source, tmp_path):
    dataset = ingest(source, tmp_path / "out", IngestOptions(k_core=2))
    assert dataset.report["removed_by_k_core"] == len(EVENTS) - len(dataset.events) > 0
    positive = dataset.events[dataset.positive]
    assert positive["user"].value_counts().min() >= 2 and positive["item"].value_counts().min() >= 2
    assert set(dataset.users["user_id"]) == {"", "a", "b"} and "new" not in set(dataset.items["item_id"])
    assert dataset.users["profile_age"].tolist() == [0, 1, 1]


def test_many_numbers_become_quantile_buckets_and_prose_is_ignored(tmp_path):
    users = [f"u{row}" for row in range(1500)]
    items = ["a", "b"] * 750
    pd.DataFrame({"user_id": users, "item_id": items}).to_parquet(tmp_path / "interactions.parquet", index=False)
    profile = {"user_id": users, "income": np.arange(1500.0) ** 2, "motto": [f"motto {row}" for row in range(1500)]}
    pd.DataFrame(profile).to_parquet(tmp_path / "users.parquet", index=False)
    dataset = ingest(tmp_path, tmp_path / "out")
    assert dataset.schema.profile == {"income": 11}
    assert (
        np.bincount(dataset.profile[1:, 0]).tolist() == [0, *[150] * 10]
        or (abs(np.bincount(dataset.profile[1:, 0])[1:] - 150) <= 1).all()
    )
    assert (np.diff(dataset.profile[1:, 0]) >= 0).all()
    assert dataset.report["ignored_columns"]["users"] == {"motto": "more than 1000 distinct values"}


CELL = st.sampled_from(["a", "b", "c", "d", None, "", "x\ny"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(CELL, CELL, st.sampled_from([1, 2, 3, None, -1, NOW * 9]), st.sampled_from(["view", "skip", "?"])),
        max_size=30,
    ),
    st.integers(0, 2),
)
def test_nothing_is_lost(tmp_path_factory, rows, k_core):
    folder = tmp_path_factory.mktemp("log")
    # Two sound events at the ends of time, so that there is something to train and to test on.
    rows = [("first", "a", 0, "view"), *rows, ("last", "a", 1000, "view")]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event"]).astype({"timestamp": "Int64"})
    frame.to_parquet(folder / "interactions.parquet", index=False)
    try:
        dataset = ingest(folder, folder / "out", IngestOptions(now=NOW, k_core=k_core, split="global_time"))
    except DatasetError as error:
        assert k_core and ("no event left" in str(error) or "leaves no positive event" in str(error))
        return
    lines = pd.read_parquet(folder / "out/quarantine.parquet")
    assert len(rows) == len(dataset.events) + len(lines) + dataset.report["removed_by_k_core"]
    assert lines["row"].is_unique and lines["row"].between(0, len(rows) - 1).all()
    users, items = dataset.user_ids.to_array(), dataset.item_ids.to_array()
    inside = dataset.events
    kept = {(users[e.user], items[e.item], e.timestamp, e.event) for e in inside.itertuples()}
    assert len(kept) == len(inside)
    assert kept <= {(u, i, t, EVENT_CODES.get(kind)) for u, i, t, kind in rows}


@pytest.mark.parametrize(
    "options", [{"split": "newest"}, {"test_fraction": 1.0}, {"positive_events": ("dance",)}, {"valid_fraction": -0.1}]
)
def test_options_are_checked(options):
    with pytest.raises(DatasetError):
        IngestOptions(**options)
