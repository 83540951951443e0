"""Leak checks: an honest world passes, and every planted leak stops the run by name."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import Dataset
from data.features import FeatureStore
from data.ingest import IngestOptions, ingest
from data.schema import MODALITIES, SPLIT_CODES, TEST, VALID
from pipeline.metrics.examples import interactions
from pipeline.ranker.leak_checks import LeakError, check_context, check_counts, check_retrieval, check_split_order
from pipeline.ranker.list_checks import check_counts_read, check_lists, check_popularity_read
from pipeline.ranker.lists import retrieve_fold
from pipeline.ranker.retrieval_side import exact_search
from pipeline.ranker.setup import build_ranker
from pipeline.ranker.train import FOLDS, train_ranking
from pipeline.training.record import training_record
from ranking.config import RankingConfig
from ranking.popularity import popularity_table

DAY, START = 86_400, 1_700_000_000 // 86_400 * 86_400
USERS, ITEMS = 30, 40
BEGIN = START + 22 * DAY
"""When the validation split begins: the last four days of thirty are the test split, four before them are this one."""
CONFIG = RankingConfig(
    history_length=4, list_size=8, retrieved=15, random_negatives=2, token_width=4, id_width=2, side_width=2, hidden=(4,),
    cross_rank=2, batch_lists=16, epochs=1, jit_compile=False, calibration_share=0.4,
)  # fmt: skip
EMBEDDINGS = np.vstack([np.zeros(3), np.random.default_rng(2).normal(size=(ITEMS, 3))]).astype(np.float32)


def query(users, history):
    return EMBEDDINGS[history].mean(axis=1) + 0.1


def search(queries, k, excluded):
    return exact_search(queries, EMBEDDINGS, k, excluded)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """900 events over 30 days with a device, whose items get popular at different times; a third comes out on the way."""
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(0)
    created = np.where(np.arange(ITEMS) % 3, START, START + rng.integers(0, 29 * DAY, ITEMS))
    pd.DataFrame({"item_id": [f"i{row}" for row in range(ITEMS)], "created_at": created}).to_parquet(
        folder / "items.parquet"
    )
    item = rng.integers(0, ITEMS, 900)
    pd.DataFrame(
        {
            "user_id": [f"u{row}" for row in rng.integers(0, USERS, 900)],
            "item_id": [f"i{row}" for row in item],
            "timestamp": np.maximum(created[item], START + rng.integers(0, 30 * DAY, 900)),
            "event": rng.choice(["view", "like", "purchase", "skip"], 900),
            "device": rng.choice(["phone", "tv"], 900),
        }
    ).to_parquet(folder / "interactions.parquet")
    return ingest(folder, folder / "out", IngestOptions(split="global_time"))


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    np.save(folder / "image.npy", np.random.default_rng(1).normal(size=(ITEMS + 1, 6)).astype(np.float16))
    present = np.zeros((ITEMS + 1, len(MODALITIES)), bool)
    present[1:, 1] = True
    np.save(folder / "present.npy", present)
    (folder / "widths.json").write_text(json.dumps({"image": 6}))
    return FeatureStore.open(folder)


@pytest.fixture(scope="module")
def fold(dataset):
    return retrieve_fold(dataset, "valid", query, search, CONFIG, known_splits=("train",), query_history=4)


@pytest.fixture(scope="module")
def lists(dataset, fold):
    return fold.lists(dataset, EMBEDDINGS, CONFIG, [1])


@pytest.fixture(scope="module")
def ranker(dataset, store, fold, lists):
    return build_ranker(
        dataset, store, EMBEDDINGS, fold, lists, ("click",), CONFIG, known_splits=FOLDS, first_request=BEGIN
    )


def check(dataset, lists):
    check_lists(dataset, lists, window_seconds=CONFIG.request_seconds)


def test_an_honest_world_passes(dataset, lists, ranker):
    check_split_order(dataset)
    check_context(dataset)
    check(dataset, lists)
    check_counts_read(dataset, ranker)
    check_popularity_read(dataset, ranker, BEGIN)
    check_retrieval(dataset, [training_record(dataset, interactions(dataset, ("train",)), ("train",))], "valid")
    both = ("train", "valid")
    check_retrieval(dataset, [training_record(dataset, interactions(dataset, both), both)], "test")


def counted(dataset, *splits):
    part = dataset.events["split"].isin([SPLIT_CODES[name] for name in splits]) & dataset.positive
    return np.bincount(dataset.events["item"][part], minlength=ITEMS + 1)


def test_a_label_in_a_count_stops_the_training(dataset, store, tmp_path):
    """The first planted leak: counts that hold the events of the split they help to predict."""
    planted = dataclasses.replace(dataset, counts=counted(dataset, "train", "valid"))
    with pytest.raises(LeakError, match=r"item 'i\d+' \(row \d+\) counts .* Count the events of the train split alone"):
        train_ranking(planted, store, EMBEDDINGS, query, search, tmp_path, tmp_path, CONFIG, query_history=4)


def test_a_single_event_too_many_is_found(dataset):
    counts = dataset.counts.copy()
    check_counts(dataset, counts)
    counts[7] += 1
    with pytest.raises(LeakError, match=r"row 7\)"):
        check_counts(dataset, counts)


@pytest.mark.parametrize("shift", [-DAY, DAY], ids=["a day ahead", "a day behind"])
def test_future_popularity_is_found(dataset, ranker, shift):
    """The second planted leak: popularity as of a moment that holds what came after it. What is stale is no leak, but no
    honest table either."""
    table, honest = (
        ranker.network.features.side.popularity_table,
        np.asarray(ranker.network.features.side.popularity_table),
    )
    events = dataset.events[dataset.positive & (dataset.events["split"] <= VALID)]
    start, step = ranker.spec.popularity_start, ranker.spec.popularity_step
    planted = popularity_table(
        events["item"].to_numpy(),
        events["timestamp"].to_numpy() + shift,
        start,
        CONFIG.popularity_half_lives,
        ITEMS + 1,
    )
    values = np.concatenate([planted.values, planted.values[-1:], planted.values[-1:]])[
        : ranker.spec.popularity_moments
    ]
    assert planted.step == step
    table.assign(values.reshape(table.shape))
    with pytest.raises(LeakError, match=r"popularity with a half-life of 3 days.*Count only events strictly before"):
        check_popularity_read(dataset, ranker, BEGIN)
    table.assign(honest)
    check_popularity_read(dataset, ranker, BEGIN)


def test_popularity_that_begins_after_a_request_is_found(dataset, ranker):
    with pytest.raises(LeakError, match="which would read it"):
        check_popularity_read(dataset, ranker, BEGIN - 1)


def test_popularity_of_a_later_split_is_found(dataset, store, fold, lists):
    known = (*FOLDS, "test")
    leaky = build_ranker(
        dataset, store, EMBEDDINGS, fold, lists, ("click",), CONFIG, known_splits=known, first_request=BEGIN
    )
    with pytest.raises(LeakError, match="none of a later split"):
        check_popularity_read(dataset, leaky, BEGIN)


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "valid", "test"), ("test",)])
def test_an_index_trained_on_test_is_found(dataset, splits):
    """The third planted leak: a model behind the index that has seen what it is judged on."""
    record = training_record(dataset, interactions(dataset, splits), splits)
    for split in ("valid", "test"):
        with pytest.raises(LeakError, match="was trained on " + " and ".join(splits)):
            check_retrieval(dataset, [record], split)
    # What a record says of itself does not help: the digest of what was read does.
    with pytest.raises(LeakError, match="such as event"):
        check_retrieval(dataset, [record | {"splits": ["train"], "last_timestamp": 0}], "test")


def test_an_index_nobody_knows_is_refused(dataset):
    record = training_record(dataset, interactions(dataset, ("train",)), ("train",))
    with pytest.raises(LeakError, match="no union of this dataset's splits"):
        check_retrieval(dataset, [record | {"digest": "0" * 16}], "valid")
    with pytest.raises(LeakError, match="until"):
        check_retrieval(dataset, [record | {"last_timestamp": int(dataset.events["timestamp"].max())}], "valid")
    with pytest.raises(LeakError, match="no record"):
        check_retrieval(dataset, [], "valid")


def test_splits_that_overlap_in_time_are_found(dataset):
    events = dataset.events.copy()
    late = int(events[events["split"] == TEST].index[0])
    events.loc[late, "split"] = VALID
    with pytest.raises(LeakError, match="lasts until"):
        check_split_order(dataclasses.replace(dataset, events=events))
    # A published split need not be by time, and says so.
    given = dataclasses.replace(dataset, events=events, report={"split": "given"})
    check_split_order(given)


def test_context_that_tells_the_outcome_is_found(dataset):
    bought = (dataset.events["event"] == dataset.events["event"].max()).to_numpy()
    leaky = dataset.events.assign(
        context_device=np.where(bought & (np.arange(len(bought)) % 4 > 0), 1, 0).astype(np.int32)
    )
    with pytest.raises(LeakError, match=r"'device'.*data\.context"):
        check_context(dataclasses.replace(dataset, events=leaky))


def planted_in(lists, name, place, value):
    array = getattr(lists, name).copy()
    array[place] = value
    return dataclasses.replace(lists, **{name: array})


def test_lists_that_know_too_much_are_found(dataset, lists):
    last = lists.mask.sum(axis=1) - 1
    drawn = lists.labels["click"][np.arange(len(lists)), last] == 0
    created = dataset.items["created_at"].to_numpy()
    for line in np.flatnonzero(drawn & (last > 0) & (lists.history[:, 0] > 0) & (lists.timestamp < created.max())):
        mine = dataset.events[dataset.events["user"] == lists.user[line]]
        past = mine["timestamp"] < lists.timestamp[line]
        unborn = set(np.flatnonzero(created > lists.timestamp[line])) - set(mine["item"])
        future = set(mine["item"][~past & mine["positive"]]) - set(mine["item"][past])
        if unborn and future:
            break
    else:
        pytest.fail("the world must hold a list with all that can be wrong")
    at = (line, int(last[line]))
    for leak, name, place, value in (
        ("seen before", "candidates", at, mine["item"][past].iloc[0]),
        ("not released", "candidates", at, min(unborn)),
        ("not chosen by then", "history", (line, 0), min(future)),
    ):
        with pytest.raises(LeakError, match=leak) as error:
            check(dataset, planted_in(lists, name, place, int(value)))
        assert f"list {line} of user" in str(error.value)
    wrong = lists.labels["click"].copy()
    wrong[at] = 1
    with pytest.raises(LeakError, match="does not hold"):
        check(dataset, dataclasses.replace(lists, labels=lists.labels | {"click": wrong}))


def test_a_later_choice_is_no_negative(dataset, lists):
    """Found for any user with two requests: an item of the second one among the first one's negatives."""
    part = dataset.events[(dataset.events["split"] == VALID) & dataset.events["positive"]]
    known = set(map(tuple, dataset.events.loc[dataset.events["split"] < VALID, ["user", "item"]].to_numpy()))
    for line in range(len(lists)):
        begin = int(lists.timestamp[line])
        later = part[(part["user"] == lists.user[line]) & (part["timestamp"] >= begin + DAY)]
        fresh = [row for row in later["item"] if (lists.user[line], row) not in known]
        fresh = [row for row in fresh if row not in lists.candidates[line]]
        fresh = [
            row
            for row in fresh
            if part[(part["user"] == lists.user[line]) & (part["item"] == row)]["timestamp"].min() >= begin + DAY
        ]
        fresh = [row for row in fresh if dataset.items["created_at"].iloc[row] <= begin]
        if fresh and lists.mask[line, -1] and not lists.labels["click"][line, -1]:
            with pytest.raises(LeakError, match="chooses later"):
                check(dataset, planted_in(lists, "candidates", (line, -1), fresh[0]))
            return
    pytest.fail("the world must hold a user with two requests")


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    window=st.sampled_from([0, 3_600, DAY]),
    share=st.floats(0.2, 1.0),
    order=st.sampled_from(["time", "random"]),
)
def test_lists_of_any_world_hold_nothing_seen_unreleased_or_chosen_later(dataset, seed, window, share, order):
    """Whatever events a log holds, repeated and simultaneous ones included, and however it is split."""
    rng = np.random.default_rng(seed)
    events = dataset.events.sample(frac=share, random_state=seed)
    events = pd.concat([events, events.sample(frac=0.2, random_state=seed)])
    events["timestamp"] = events["timestamp"] // 7200 * 7200
    if order == "random":
        events["split"] = rng.permutation(events["split"].to_numpy())
    items = dataset.items.assign(created_at=rng.permutation(dataset.items["created_at"].to_numpy()))
    world = dataclasses.replace(
        dataset, events=events.sort_values(["user", "timestamp"], ignore_index=True), items=items, report={}
    )
    config = dataclasses.replace(CONFIG, request_seconds=window)
    made = retrieve_fold(world, "valid", query, search, config, known_splits=("train",), query_history=4)
    drawn = made.lists(world, EMBEDDINGS, config, [seed])
    assert drawn.mask.any(axis=1).all()  # a request without anything new is none
    check_lists(world, drawn, window_seconds=window)


def test_without_times_the_past_is_the_known_splits(dataset: Dataset):
    timeless = dataclasses.replace(
        dataset,
        schema=dataclasses.replace(dataset.schema, has_timestamps=False),
        events=dataset.events.assign(timestamp=0),
        items=dataset.items.assign(created_at=0),
    )
    made = retrieve_fold(timeless, "valid", query, search, CONFIG, known_splits=("train",), query_history=4)
    check(timeless, made.lists(timeless, EMBEDDINGS, CONFIG, [1]))
    check_split_order(timeless)
