"""Rows and codes from day to day: what was known keeps its number, whatever is added, dropped or reordered."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data import categorical
from data.categorical import interval_edges
from data.dataset import Dataset, gone_rows, train_counts
from data.schema import Schema
from data.validation import DatasetError
from pipeline.nightly.data_checks_events import silence_check
from pipeline.nightly.grow_vocabulary import check_same_rows, grow_dataset, ingest_newest, split_newest
from pipeline.settings.config import DataConfig
from serving.graphs.request_words import word_codes

DAY = 86_400


def make_dataset(users, items, events, ages=("",), devices=("",)):
    """Users and items as (id, code of their column), events as (user row, item row, time, device code)."""
    columns = np.array(events or [(1, 1, 0, 0)], np.int64).reshape(-1, 4)
    order = np.lexsort((columns[:, 2], columns[:, 0]))
    columns = columns[order]
    table = pd.DataFrame(
        {
            "user": columns[:, 0].astype("int32"), "item": columns[:, 1].astype("int32"), "timestamp": columns[:, 2],
            "event": np.zeros(len(columns), "int8"), "value": np.full(len(columns), np.nan, "float32"),
            "split": np.zeros(len(columns), "int8"), "positive": np.ones(len(columns), bool),
            "context_device": columns[:, 3].astype("int32"),
        }
    )  # fmt: skip
    people = pd.DataFrame({"user_id": ["", *(name for name, _ in users)]}).astype("str")
    catalogue = pd.DataFrame({"item_id": ["", *(name for name, _ in items)]}).astype("str")
    return Dataset(
        schema=Schema(len(people), len(catalogue), profile={"age": len(ages)}, context={"device": len(devices)}),
        users=people.assign(profile_age=np.array([0, *(code for _, code in users)], "int32")),
        items=catalogue,
        events=table,
        counts=train_counts(table, len(catalogue)),
        profile_vocabulary={"age": list(ages)},
        attribute_vocabulary={},
        report={},
        context_vocabulary={"device": list(devices)},
    )


def told(dataset):
    """Events in outside words, in no order."""
    people, catalogue = dataset.users["user_id"].to_numpy(), dataset.items["item_id"].to_numpy()
    words = np.array(dataset.context_vocabulary["device"], object)
    rows = (dataset.events[name].to_numpy() for name in ("user", "item", "timestamp", "context_device"))
    return sorted((people[u], catalogue[i], int(t), words[c]) for u, i, t, c in zip(*rows, strict=True))


ids = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True)


@settings(max_examples=40, deadline=None)
@given(days=st.lists(st.tuples(ids, ids, ids, st.integers(0, 9)), min_size=2, max_size=4))
def test_nothing_ever_changes_its_number_and_nothing_is_lost(days):
    previous = None
    for users, items, values, seed in days:
        rng = np.random.default_rng(seed)
        ages = ["", *values]
        people = [(f"u{name}", int(rng.integers(len(ages)))) for name in users]
        events = [(int(rng.integers(1, len(users) + 1)), int(rng.integers(1, len(items) + 1)), int(time), int(rng.integers(2)))
                  for time in rng.integers(0, 99, 6)]  # fmt: skip
        fresh = make_dataset(people, [(f"i{name}", 0) for name in items], events, ages, ["", f"d{seed}"])
        grown = fresh if previous is None else grow_dataset(fresh, previous)
        assert told(grown) == told(fresh)
        keys = list(zip(grown.events["user"], grown.events["timestamp"], strict=True))
        assert keys == sorted(keys)
        codes = grown.users.set_index("user_id")["profile_age"]
        assert [grown.profile_vocabulary["age"][codes[name]] for name, _ in people] == [ages[code] for _, code in people]
        if previous is not None:
            for table, key in (("users", "user_id"), ("items", "item_id")):
                before, now = (getattr(part, table)[key].tolist() for part in (previous, grown))
                assert now[: len(before)] == before and len(set(now)) == len(now)
            old = previous.profile_vocabulary["age"]
            assert grown.profile_vocabulary["age"][: len(old)] == old
            gone = sorted(set(previous.users["user_id"]) - {name for name, _ in people} - {""})
            then = previous.users.set_index("user_id")["profile_age"]
            assert codes[gone].tolist() == then[gone].tolist()
        previous = grown


def test_an_item_that_is_gone_keeps_its_row_and_is_never_released_until_it_is_listed_again():
    def day(*items):
        made = make_dataset([("a", 0)], [(name, 0) for name in items], [])
        return dataclasses.replace(made, items=made.items.assign(created_at=np.arange(len(items) + 1) * DAY))

    first = day("i", "j", "k")
    second = grow_dataset(day("k", "l"), first)
    assert second.items["item_id"].tolist() == ["", "i", "j", "k", "l"] and gone_rows(second.items).tolist() == [1, 2]
    third = grow_dataset(day("j", "l"), second)
    assert gone_rows(third.items).tolist() == [1, 3] and third.items["created_at"][2] == DAY


def test_a_moved_row_is_refused():
    one = make_dataset([("a", 0), ("b", 0)], [("i", 0)], [])
    other = make_dataset([("b", 0), ("a", 0)], [("i", 0)], [])
    with pytest.raises(DatasetError, match="row 1 was 'a' and is 'b'"):
        check_same_rows(other, one)
    with pytest.raises(DatasetError, match="row 1 was 'a' and is 'gone'"):
        check_same_rows(make_dataset([], [("i", 0)], []), make_dataset([("a", 0)], [("i", 0)], []))


def test_days_are_split_from_the_end_of_the_log():
    times = [0, 4 * DAY + 9, 4 * DAY + 10, 6 * DAY + 9, 6 * DAY + 10, 7 * DAY + 9]
    log = make_dataset([("a", 0)], [("i", 0)], [(1, 1, time, 0) for time in times])
    split = split_newest(log, 1, 2)
    assert split.events["split"].tolist() == [0, 0, 1, 1, 2, 2] and split.counts.tolist() == [0, 2]
    with pytest.raises(DatasetError, match=r"leave no positive event in the train part of a log of 8 days"):
        split_newest(log, 3, 9)
    undated = dataclasses.replace(log, schema=dataclasses.replace(log.schema, has_timestamps=False))
    with pytest.raises(DatasetError, match="needs the column `timestamp`"):
        split_newest(undated, 1, 1)


@pytest.mark.parametrize("end", [2.5, 12.0, 24.0])
def test_a_job_is_judged_on_whole_days_whatever_the_hour_at_which_the_log_ends(end):
    times = np.arange(0, round((8 + end / 24) * DAY), 600)  # one event every ten minutes
    split = split_newest(make_dataset([("a", 0)], [("i", 0)], [(1, 1, int(time), 0) for time in times]), 2, 3)
    codes = split.events["split"].to_numpy()
    assert [int((codes == code).sum()) for code in (2, 1)] == [2 * 144, 3 * 144]
    if end == 24.0:  # whole days of the calendar, but for what no log has: the seconds after its last event
        time = split.events["timestamp"].to_numpy()
        np.testing.assert_array_equal(codes == 2, time >= 7 * DAY)


def test_an_event_ahead_of_all_others_moves_no_day():
    times = np.arange(0, 8 * DAY, 600)
    first, moved = (split_newest(make_dataset([("a", 0)], [("i", 0)], [(1, 1, int(time), 0) for time in log]), 2, 3)
                    for log in (times, np.r_[times, 8 * DAY + 9 * 3600, 11 * DAY]))  # fmt: skip
    codes = moved.events["split"].to_numpy()
    np.testing.assert_array_equal(codes[: len(times)], first.events["split"])
    assert codes[len(times) :].tolist() == [2, 2]


def test_after_a_silence_the_days_before_it_validate():
    """Of ten days, a week of silence and one more day; three days validate as they do every night."""
    times = np.r_[np.arange(0, 10 * DAY, 600), np.arange(17 * DAY, 18 * DAY, 600)]
    log = make_dataset([("a", 0)], [("i", 0)], [(1, 1, int(time), 0) for time in times])
    split = split_newest(log, 1, 3)
    codes = split.events["split"].to_numpy()
    assert [int((codes == code).sum()) for code in (2, 1, 0)] == [144, 3 * 144, 7 * 144]
    assert split.report["silent_days"] == 7 and split_newest(log, 1, 8).report["silent_days"] == 0
    assert silence_check(split).verdict == "warn" and silence_check(log).verdict == "go"
    with pytest.raises(DatasetError, match=r"job.test_days, job.warm_days: 1 and 20 leave .* train .* choose fewer days"):
        split_newest(log, 1, 20, "warm_days")
    disliked = dataclasses.replace(log, events=log.events.assign(positive=log.events["timestamp"] < 17 * DAY))
    with pytest.raises(DatasetError, match=r"leave no positive event in the test part .* choose more test_days"):
        split_newest(disliked, 1, 3)


def night(folder, people, log, previous, settings=None):
    """A dataset folder of three days, ingested as a job does after the one before."""
    folder.mkdir(parents=True)
    log = pd.DataFrame({"user_id": people["user_id"], "item_id": "i", **log})
    days = pd.concat([log.assign(timestamp=day * DAY + np.arange(len(log))) for day in range(3)], ignore_index=True)
    days.to_parquet(folder / "interactions.parquet", index=False)
    people.to_parquet(folder / "users.parquet", index=False)
    (folder / "out").mkdir()
    return ingest_newest(folder, folder / "out", settings or DataConfig(), previous, 1, 1)


def shifted_nights(folder):
    """Three nights of a profile of numbers, of whole numbers and of words, and of a context of numbers that rise each night."""
    rng, previous = np.random.default_rng(0), None
    for number in range(3):
        users = [f"u{row}" for row in range(40 + 5 * number)]
        income = rng.normal(size=60)[: len(users)] * 1e6 / 3 + number * 4e5
        people = pd.DataFrame({"user_id": users, "income": income, "age": 20 + np.arange(len(users)) % (5 + number),
                               "town": ["a", "b"][number % 2 :] + ["c"] * (len(users) - 2 + number % 2)})  # fmt: skip
        previous = night(folder / str(number), people, {"speed": rng.random(len(users)) + number}, previous)
        yield people, previous


def test_numbers_keep_their_intervals_whatever_the_later_nights_bring(tmp_path):
    (people, first), *later = shifted_nights(tmp_path)
    edges = np.quantile(people["income"], np.linspace(0, 1, 11), method="lower")
    assert interval_edges(first.profile_vocabulary["income"]) == edges[:-1].tolist()  # to the last bit
    for people, dataset in later:
        for kind, name in (("profile", "income"), ("context", "speed")):
            assert getattr(dataset, f"{kind}_vocabulary")[name] == getattr(first, f"{kind}_vocabulary")[name]
        codes = np.clip(np.searchsorted(edges[:-1], people["income"], side="right"), 1, 10)
        assert dataset.users.set_index("user_id")["profile_income"][people["user_id"]].tolist() == codes.tolist()
    (_, second), (_, third) = later
    assert [part.profile_vocabulary["age"][6:] for part in (first, second, third)] == [[], ["25"], ["25", "26"]]
    for name in ("age", "town"):
        old = second.profile_vocabulary[name]
        assert third.profile_vocabulary[name][: len(old)] == old


def test_a_column_of_another_kind_goes_on_as_what_it_was(tmp_path):
    users = [f"u{row}" for row in range(30)]
    people = pd.DataFrame({"user_id": users, "income": np.arange(30) / 4, "age": np.arange(30) % 5})
    first = night(tmp_path / "first", people, {}, None)
    other = people.assign(income=[*people["income"].astype(str)[:-1], "a lot"], age=people["age"] + (np.arange(30) == 29) / 2)
    second = night(tmp_path / "second", other, {}, first)
    assert second.profile_vocabulary == first.profile_vocabulary
    for name in ("profile_income", "profile_age"):
        assert second.users[name].tolist() == [*first.users[name][:-1], 0]


def test_texts_that_name_intervals_are_words_every_night(tmp_path):
    """As `pandas.cut` names them; by frequency they may come in the order of what they name."""
    ages = ["[18, 25)"] * 5 + ["[25, 35)"] * 3 + ["[35, 99)"] * 2
    people = pd.DataFrame({"user_id": [f"u{row}" for row in range(10)], "age": ages})
    first = night(tmp_path / "first", people, {}, None)
    second = night(tmp_path / "second", people.assign(age=[*ages[:-1], "[99, 120)"]), {}, first)
    assert second.profile_vocabulary["age"] == ["", "[18, 25)", "[25, 35)", "[35, 99)", "[99, 120)"]
    assert second.users["profile_age"].tolist() == [0, *[1] * 5, *[2] * 3, 3, 4] and not second.report["kept_codings"]


def test_a_release_whose_nights_cut_anew_goes_on_in_the_first_intervals(tmp_path):
    """Its vocabulary has two sets of them, and the name of one is forgotten."""
    people = pd.DataFrame({"user_id": list("abcd"), "income": [0.5, 1.5, 2.5, 9.0]})
    labels = ["", "[0, 1)", "forgotten-2", "[2, 3]", "[0.5, 2.5)", "[2.5, 4]"]
    before = night(tmp_path / "before", people, {}, None)
    before = dataclasses.replace(
        before, users=before.users.assign(profile_income=np.zeros(5, "int32")), profile_vocabulary={"income": labels},
        schema=dataclasses.replace(before.schema, profile={"income": 6}),
    )  # fmt: skip
    after = night(tmp_path / "after", people, {}, before)
    assert after.profile_vocabulary["income"] == labels and after.users["profile_income"].tolist() == [0, 1, 1, 3, 3]


def test_a_number_below_a_forgotten_interval_falls_into_the_nearest_that_is_known():
    """Nobody else is taken for the person who alone was in the lowest one; a request's numbers likewise."""
    values = ["", "forgotten-1", "[40, 60)", "[60, 99]"]
    codes = categorical.code_intervals(np.array([10, 45, 70, np.nan]), interval_edges(values))
    assert codes.tolist() == [2, 2, 3, 0]
    asked = tf.constant([["age=10"], ["age=45"], ["age=70"], [""]])
    assert word_codes(asked, {"age": tuple(values)}, tf.constant(4)).numpy()[:, 0].tolist() == codes.tolist()


def test_columns_come_in_the_order_of_before_and_new_ones_behind(tmp_path):
    columns = {"age": [1, 2, 1, 2], "town": list("abba"), "sex": list("fmmf")}
    people = pd.DataFrame({"user_id": list("abcd"), **columns})
    log = {"device": list("ppqq"), "place": list("rssr")}
    first = night(tmp_path / "first", people, log, None)
    other = people[["user_id", "sex", "town", "age"]].assign(income=[1, 1, 2, 2])[["user_id", "income", "sex", "town", "age"]]
    second = night(tmp_path / "second", other, dict(reversed(log.items())), first)
    assert list(second.schema.profile) == list(second.profile_vocabulary) == ["age", "town", "sex", "income"]
    assert list(second.schema.context) == ["device", "place"]
    np.testing.assert_array_equal(second.profile[:, :3], first.profile)
    np.testing.assert_array_equal(second.context, first.context)


def test_a_column_that_has_grown_beyond_the_limit_keeps_the_words_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(categorical, "MAX_VALUES", 4)
    users = [f"u{row}" for row in range(12)]
    people = pd.DataFrame({"user_id": users, "town": list("aabbccaabbcc"), "code": [7, 8, 9] * 4})
    first = night(tmp_path / "first", people, {}, None)
    more = people.assign(town=list("azzyxwvcczbb"), code=[7, 8, 9, 1, 1, 2, 3, 4, 5, 6, 10, 11], motto=users)
    second = night(tmp_path / "second", more, {}, first)
    assert second.profile_vocabulary == first.profile_vocabulary == {"town": ["", *"abc"], "code": ["", *"789"]}
    assert second.users["profile_town"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 3, 3, 0, 2, 2]
    assert second.users["profile_code"].tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert second.report["kept_codings"]["users"] == {
        "town": "8 distinct values, above 4; the 5 new ones count as unknown",
        "code": "11 distinct values, above 4; the 8 new ones count as unknown",
    }
    assert second.report["ignored_columns"]["users"] == {"motto": "more than 4 distinct values"}  # no model has read it


def test_a_column_that_names_every_event_has_nothing_put_in_order(monkeypatch):
    """A million words would take as many tuples, every night anew, to be unknown at last."""
    asked = []

    def counted(rows, **by):
        asked.append(len(rows := list(rows)))
        return sorted(rows, **by)

    monkeypatch.setattr(categorical, "sorted", counted, raising=False)
    texts = np.array(["a", *(f"session {row}" for row in range(5000)), " b ", ""], dtype=object)
    coding = categorical.code_words(texts, ["", "b", "a"])
    assert coding.values == ["", "b", "a"] and coding.codes.tolist() == [2, *[0] * 5000, 1, 0] and not any(asked)
    assert coding.note == "5,002 distinct values, above 1,000; the 5,000 new ones count as unknown"
