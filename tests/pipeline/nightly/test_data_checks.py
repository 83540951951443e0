"""Data checks on logs with a known fault: each is found, and the same log without it passes."""

import dataclasses
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pydantic
import pytest

from data import categorical
from data.dataset import NEVER
from data.features import FeatureStore, FeatureWriter
from data.ingest import IngestOptions, ingest
from pipeline.nightly import data_checks_events
from pipeline.nightly.check import bounded, worst
from pipeline.nightly.data_checks_events import (
    ahead_check,
    columns_of,
    drift_check,
    gone_check,
    label_checks,
    refused_checks,
    schema_check,
    standard_scores,
    surprise_check,
    volume_check,
)
from pipeline.nightly.data_checks_media import encoder_check, media_checks, missing_check
from pipeline.nightly.grow_vocabulary import grow_dataset
from pipeline.nightly.new_data import NewData
from pipeline.nightly.wanted import Wanted
from pipeline.settings.config import DataConfig, load_config
from pipeline.settings.data_checks import ChecksSection

DAY, START = 86_400, 1_700_000_000 // 86_400 * 86_400
SECTION = ChecksSection()


def log_of(days, seed=0, *, users=60, skip=0.2):
    """Every user comes every day, at an hour of their own, and looks at two of forty items."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{user}", f"i{rng.integers(40)}", START + day * DAY + int(rng.integers(24)) * 3600 + step,
             "skip" if rng.random() < skip else "view", ("phone", "desktop")[rng.integers(2)])
            for day in range(days) for user in range(users) for step in range(2)]  # fmt: skip
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event", "device"])


def ingested(folder, log, columns=("device",), since=None, items=40, previous=None):
    folder.mkdir()
    log[["user_id", "item_id", "timestamp", "event", *columns]].to_parquet(folder / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{item}" for item in range(items)]}).to_parquet(folder / "items.parquet")
    (folder / "out").mkdir()
    return ingest(folder, folder / "out", IngestOptions(split="global_time"), since=since, previous=previous)


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """A good log of thirty days, and the dataset of the first twenty-nine."""
    log, folder = log_of(30), tmp_path_factory.mktemp("checks")
    return log, ingested(folder / "before", log[log["timestamp"] < START + 29 * DAY]), folder


def checked(month, name, log, **options):
    _, previous, folder = month
    fresh = ingested(folder / name, log, since=int(previous.events["timestamp"].max()), previous=previous, **options)
    return NewData.of(grow_dataset(fresh, previous), previous, SECTION.reference_days)


def verdicts(data):
    checks = [drift_check(*column, SECTION) for column in columns_of(data)]
    checks += [*label_checks(data, SECTION), *refused_checks(data, SECTION), volume_check(data, SECTION)]
    checks.append(schema_check(data.dataset, data.previous))
    return {check.name: check.verdict for check in checks}


def test_a_day_like_the_others_passes(month):
    data = checked(month, "good", month[0])
    assert data.new.sum() == 120 - data.dataset.report["rows"]["interactions"]["quarantined"]
    assert set(verdicts(data).values()) == {"go"}


def faults(log):
    """{name: (log with a fault on its last day, name of the check that finds it, its verdict)}"""
    last = log["timestamp"] >= START + 29 * DAY
    skipped = log.assign(event=np.where(last, "skip", log["event"]))
    phone = log.assign(device=np.where(last, "fridge", log["device"]))
    night = log.assign(timestamp=np.where(last, START + 29 * DAY + log["timestamp"] % 60, log["timestamp"]))
    bad = log.assign(event=np.where(last & (log.index % 4 == 0), "hover", log["event"]))
    return {
        "all skipped": (skipped, "share of positive events", "stop"),
        "another device": (phone, "drift of context device", "stop"),
        "one hour": (night, "drift of hour", "stop"),
        "unknown kinds": (bad, "quarantined rows", "stop"),
        "sent twice": (pd.concat([log, log[last]], ignore_index=True), "repeated rows", "stop"),
        "a fifth of a day": (log[~last | (log.index % 5 == 0)], "volume", "stop"),
    }


@pytest.mark.parametrize("name", ["all skipped", "another device", "one hour", "unknown kinds", "sent twice",
                                  "a fifth of a day"])  # fmt: skip
def test_each_fault_is_found(month, name):
    log, check, verdict = faults(month[0])[name]
    assert verdicts(checked(month, name, log))[check] == verdict


def test_a_column_that_is_gone_stops_and_a_new_one_warns(month):
    gone = checked(month, "gone", month[0], columns=())
    assert schema_check(gone.dataset, gone.previous).verdict == "stop"
    assert schema_check(gone.previous, gone.dataset).verdict == "warn"


def test_a_column_that_is_gone_is_named_with_its_reason_and_a_full_job_does_without(month):
    gone = checked(month, "prose", month[0].assign(device=[f"device {row}" for row in range(len(month[0]))]))
    # Its words of before are all unknown by now: what is left of the column is nothing.
    stop = schema_check(gone.dataset, gone.previous, Wanted())
    assert stop.verdict == "stop" and "context device (no value in any row; " in stop.found and "job --full" in stop.found
    assert schema_check(gone.dataset, gone.previous, Wanted(full=True)).verdict == "warn"
    gone = checked(month, "not there", month[0], columns=())
    for data in (DataConfig(columns=()), DataConfig(context=())):
        setting = "data.columns" if data.columns is not None else "data.context"
        told = schema_check(gone.dataset, gone.previous, Wanted(data))
        assert told.verdict == "stop" and f"left out by {setting}" in told.found and "set that back" in told.found
        assert schema_check(gone.dataset, gone.previous, Wanted(data, full=True)).verdict == "warn"


def test_a_column_whose_coding_no_longer_takes_all_is_a_warning(month, monkeypatch):
    monkeypatch.setattr(categorical, "MAX_VALUES", 2)
    log = month[0].assign(device=np.where(month[0].index % 9 == 0, "fridge", month[0]["device"]))
    grown = checked(month, "three devices", log)
    told = schema_check(grown.dataset, grown.previous)
    assert told.verdict == "warn" and told.found.startswith("context device: 3 distinct values, above 2; the 1 new")


def test_items_that_are_taken_out_of_the_catalogue_stop_nothing(month):
    """All of their events are refused, and all of these are old; what is new and wrong is still found."""
    later, three = month[0]["timestamp"] >= START + 29 * DAY, month[0]["item_id"].isin(["i37", "i38", "i39"])
    gone = checked(month, "items gone", month[0][~(later & three)], items=37)
    assert gone.dataset.report["rows"]["interactions"]["quarantined"] > 120 > gone.new.sum() > 90
    assert [check.verdict for check in refused_checks(gone, SECTION)] == ["go", "go"]
    busy = month[0][later & three]
    many = checked(month, "busy items gone", pd.concat([month[0], *([busy] * 2)], ignore_index=True), items=37)
    assert many.dataset.report["rows_since"]["gone"] == 3 * len(busy) > 0.1 * many.new.sum()
    assert [check.verdict for check in refused_checks(many, SECTION)] == ["go", "go"]
    assert gone_check(many, SECTION) == bounded("gone items", 3 / 40, SECTION.gone_items, "3 of 40 items of before")
    half = checked(month, "half of the catalogue", month[0], items=20)
    assert gone_check(half, SECTION).verdict == "stop"
    unknown = month[0].assign(item_id=month[0]["item_id"].where(~later | (month[0].index % 5 > 0), "stranger"))
    assert refused_checks(checked(month, "unknown items", unknown), SECTION)[0].verdict == "stop"
    log = month[0].assign(timestamp=np.where(later & (month[0].index % 4 == 0), 2**45, month[0]["timestamp"]))
    undated = checked(month, "undated", log)
    assert refused_checks(undated, SECTION)[0].verdict == "stop"
    again = dataclasses.replace(undated, previous=dataclasses.replace(undated.previous, report=undated.dataset.report))
    assert refused_checks(again, SECTION)[0].verdict == "go"  # they were refused before


def test_counts_are_told_with_separators():
    rows = {"read": 12_345, "quarantined": 1_774, "repeated": 0, "gone": 0}
    report = {"rows_since": rows, "rows": {}, "undated_rows": 0}
    data = SimpleNamespace(dataset=SimpleNamespace(report=report), previous=SimpleNamespace(report=report))
    assert refused_checks(data, SECTION)[0].found == "1,774 of 12,345 new rows"


def test_no_event_stops(month):
    previous = month[1]
    data = NewData.of(previous, previous, 28)
    assert volume_check(data, SECTION).verdict == "stop"


@pytest.mark.parametrize("hours", [2.5, 24.0])
@pytest.mark.parametrize("late", [-1200, 0, 1200])
def test_volume_is_that_of_whole_days_whenever_the_log_ends(tmp_path, hours, late):
    """An event every ten minutes; the last night's job ran a little earlier or later than it should have."""
    end = START + 29 * DAY + round(hours * 3600)
    times = np.arange(START, end, 600)
    log = pd.DataFrame({"user_id": "u1", "item_id": [f"i{row % 40}" for row in range(len(times))], "timestamp": times,
                        "event": "view", "device": "phone"})  # fmt: skip
    previous = ingested(tmp_path / "before", log[times < end - DAY + late])
    found = volume_check(NewData.of(grow_dataset(ingested(tmp_path / "now", log), previous), previous, 28), SECTION)
    assert (found.verdict, found.found) == ("go", "144 events a day, 144 before")


def test_events_ahead_of_all_others_are_told_and_change_no_check(month):
    log = month[0]
    ahead = log.tail(3).assign(timestamp=START + 30 * DAY + np.array([8, 20, 60]) * 3600)
    data = checked(month, "ahead", pd.concat([log, ahead], ignore_index=True))
    plain = checked(month, "none ahead", log)
    assert set(verdicts(data).values()) == {"go"} and data.new.sum() == plain.new.sum()
    assert volume_check(data, SECTION) == volume_check(plain, SECTION)
    told = ahead_check(data.dataset)
    assert told.verdict == "warn" and told.found.startswith("3 events up to ") and ahead_check(plain.dataset).verdict == "go"
    again = NewData.of(data.dataset, data.dataset, 28)
    assert not again.new.any(), "what is ahead is not new every night"


def test_the_second_job_of_a_day_is_compared_with_the_same_hours(tmp_path):
    """People look at other things by night, on another device; a night at one hour is still no night as they are."""
    log = log_of(30, users=300)
    late = log["timestamp"] % DAY >= 12 * 3600
    log = log.assign(device=np.where(late, "phone", "desktop"), event=np.where(late & (log.index % 3 > 0), "skip", "view"))
    noon = START + 29 * DAY + 12 * 3600
    previous = ingested(tmp_path / "noon", log[log["timestamp"] < noon])
    hour = log.assign(timestamp=np.where(log["timestamp"] < noon, log["timestamp"], noon + 7 * 3600 + log.index % 3600))
    for name, now, verdict in (("evening", log, "go"), ("hour", hour, "stop")):
        fresh = ingested(tmp_path / name, now, since=int(previous.events["timestamp"].max()))
        found = verdicts(NewData.of(grow_dataset(fresh, previous), previous, SECTION.reference_days))
        assert found.pop("drift of hour") == verdict
        assert name == "hour" or set(found.values()) == {"go"}, found


@pytest.mark.parametrize(("share", "hours", "verdict"), [(1, 24, "warn"), (1, 12, "warn"), (5, 24, "stop")])
def test_a_log_that_goes_on_after_a_week_of_silence_is_told_and_passes(month, share, hours, verdict):
    """Where its days, or the half of one, are as usual, and not where a fifth of the events comes."""
    later = month[0].assign(timestamp=month[0]["timestamp"] + 7 * DAY)
    later = later[(later["timestamp"] >= START + 36 * DAY) & (later["timestamp"] < START + 36 * DAY + hours * 3600)]
    log = pd.concat([month[0][month[0]["timestamp"] < START + 29 * DAY], later[later.index % share == 0]], ignore_index=True)
    data = checked(month, f"silence-{share}-{hours}", log)
    found = verdicts(data)
    assert found.pop("volume") == verdict and "of 8 days without any" in volume_check(data, SECTION).found
    assert share > 1 or set(found.values()) == {"go"}, found


def stored(folder, vectors, present, **encoder):
    folder.mkdir(parents=True)
    writer = FeatureWriter(folder, len(vectors))
    writer.add("image", vectors.shape[1])
    rows = np.flatnonzero(present)
    writer.put("image", rows, vectors[rows])
    writer.close(info={"modalities": {"image": encoder}})
    return FeatureStore.open(folder)


@pytest.mark.parametrize(
    ("shift", "missing", "lost", "expected"),
    [
        (0.0, 0, 0, {"lost image": "go", "missing image": "go", "drift of image vectors": "go"}),
        (3.0, 0, 0, {"lost image": "go", "missing image": "go", "drift of image vectors": "stop"}),
        (0.0, 30, 0, {"lost image": "go", "missing image": "stop", "drift of image vectors": "go"}),
        (0.0, 0, 2, {"lost image": "warn", "missing image": "go", "drift of image vectors": "go"}),
        (0.0, 0, 20, {"lost image": "stop", "missing image": "go", "drift of image vectors": "go"}),
    ],
)
def test_content_that_is_missing_lost_or_other(month, tmp_path, shift, missing, lost, expected):
    _, previous, _ = month
    rng, old, new = np.random.default_rng(0), previous.schema.item_rows, 60
    vectors = rng.normal(size=(old + new, 6)).astype("float32")
    vectors[old:] += shift
    there = np.ones(old + new, bool)
    there[0] = False
    stored(tmp_path / "parent" / "encode", vectors[:old], there[:old])
    there[old : old + missing] = False
    there[1 : 1 + lost] = False
    schema = dataclasses.replace(previous.schema, item_rows=old + new)
    data = NewData(dataclasses.replace(previous, schema=schema), previous, np.ones(1), np.ones(1), np.arange(old, old + new))
    checks = media_checks(data, SECTION, stored(tmp_path / "now", vectors, there), tmp_path / "parent")
    assert {check.name: check.verdict for check in checks} == expected | {"encoder of image": "go"}


def test_a_modality_that_is_gone_stops_unless_a_full_job_does_without(month, tmp_path):
    _, previous, _ = month
    rows, nothing = previous.schema.item_rows, np.zeros(0, int)
    stored(tmp_path / "parent" / "encode", np.ones((rows, 6), "float32"), np.arange(rows) > 0)
    (tmp_path / "now").mkdir()
    now = FeatureWriter(tmp_path / "now", rows).close()
    data = NewData(previous, previous, np.ones(1), np.ones(1), nothing)
    off = load_config(overrides=["encoders.image=none"]).encoders
    told = [media_checks(data, SECTION, now, tmp_path / "parent", wanted)[0]
            for wanted in (Wanted(), Wanted(encoders=off), Wanted(full=True))]  # fmt: skip
    assert [check.verdict for check in told] == ["stop", "stop", "warn"]
    assert "image (not in the data)" in told[0].found and "job --full" in told[0].found
    assert "left out by encoders.image" in told[1].found


@pytest.mark.parametrize(
    ("then", "now", "changed", "verdict", "told"),
    [
        (("pack:a", "f1"), ("pack:a", "f1"), 1.0, "go", "pack:a f1 as before"),  # of changed pictures; drift is another check
        (("pack:a", "f1"), ("pack:b", "f2"), 0.0, "stop", "was pack:a f1 and is pack:b f2"),
        (("pack:a", "f1"), ("pack:a", "f2"), 0.0, "stop", "was pack:a f1 and is pack:a f2"),
        (("ready-made",), ("ready-made",), 0.02, "go", "2.0% of the vectors"),
        (("ready-made",), ("ready-made",), 0.2, "warn", "20.0% of the vectors"),
        (("ready-made",), ("ready-made",), 1.0, "stop", "100.0% of the vectors of known items are others; bring that one back"),
        (("pack:a", "f1"), ("ready-made",), 0.0, "go", "was pack:a f1 and is ready-made; 0.0% of the vectors"),
        (("pack:a", "f1"), ("ready-made",), 1.0, "stop", "was pack:a f1 and is ready-made; 100.0% of the vectors"),
    ],
)
def test_vectors_of_another_encoder_stop_unless_all_is_trained_on_them(tmp_path, then, now, changed, verdict, told):
    rng, rows = np.random.default_rng(0), np.arange(1, 101)
    vectors, there = rng.normal(size=(101, 6)).astype("float32"), np.arange(101) > 0
    others = np.where(np.arange(101)[:, None] <= 100 * changed, rng.normal(size=vectors.shape), vectors)
    names = [dict(zip(("encoder", "fingerprint"), one, strict=False)) for one in (then, now)]
    stores = [stored(tmp_path / "one", vectors, there, **names[0]), stored(tmp_path / "two", others, there, **names[1])]
    check = encoder_check("image", *stores, rows, SECTION, full=False)
    assert check.verdict == verdict and told in check.found and ("job --full" in check.found) == (verdict == "stop")
    assert encoder_check("image", *stores, rows, SECTION, full=True).verdict == {"stop": "warn"}.get(verdict, verdict)
    narrow = stored(tmp_path / "three", others[:, :3], there, **names[0])
    assert encoder_check("image", stores[0], narrow, rows, SECTION, full=False).verdict == "stop"


def test_media_of_items_that_are_gone_are_not_lost(month, tmp_path):
    _, previous, _ = month
    rows = previous.schema.item_rows
    vectors, there = np.random.default_rng(0).normal(size=(rows, 6)).astype("float32"), np.arange(rows) > 0
    stored(tmp_path / "parent" / "encode", vectors, there)
    there[1:21] = False
    now, nothing = stored(tmp_path / "now", vectors, there), np.zeros(0, int)
    for gone, verdict in ((1, "stop"), (21, "go")):
        items = previous.items.assign(created_at=np.where((np.arange(rows) > 0) & (np.arange(rows) < gone), NEVER, 0))
        data = NewData(dataclasses.replace(previous, items=items), previous, np.ones(1), np.ones(1), nothing)
        assert media_checks(data, SECTION, now, tmp_path / "parent")[0].verdict == verdict


def test_few_missing_are_chance():
    assert missing_check("image", 0.08, np.array([True, False, False]), SECTION).verdict == "go"
    assert missing_check("image", 0.08, np.array([True] * 4 + [False] * 4), SECTION).verdict == "stop"


def test_decisions_are_the_worst_verdict_and_bounds_are_in_order():
    checks = [bounded("one", value, (0.1, 0.2), "") for value in (0.0, 0.1, 0.05)]
    assert worst(checks) == "warn" and worst([*checks, bounded("two", 0.2, (0.1, 0.2), "")]) == "stop" and worst([]) == "go"
    with pytest.raises(pydantic.ValidationError, match=r"checks.psi: must be \(warn, stop\)"):
        ChecksSection(psi=(0.5, 0.1))


@pytest.mark.parametrize("most", [2**22, 50_000])
def test_scores_are_standardised_over_all_items_and_kept_of_those_asked_for(monkeypatch, most):
    """By a block of queries where all scores at once, 8 MB and as much again for their spread, are too many."""
    monkeypatch.setattr(data_checks_events, "MOST_SCORES", most)
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(size=(10_001, 4)).astype(np.float32)
    wanted = np.array([1, 17, 9_999, 10_000])
    tracemalloc.start()
    found = standard_scores(queries, items, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (peak < 1e6) == (most == 50_000)
    for query, line in zip(queries, found, strict=True):
        scores = items[1:].astype(np.float64) @ query
        np.testing.assert_allclose(line, [(scores[row - 1] - scores.mean()) / scores.std() for row in wanted], atol=1e-4)


def test_surprise_is_of_everybody_and_counts_whom_it_asked(tmp_path, monkeypatch):
    """Everybody has an item that the model knows of, and on the last day the first half of the people chooses others."""
    log = log_of(30, users=300, skip=0)
    log = log.assign(item_id="i" + (log["user_id"].str[1:].astype(int) % 40).astype(str))
    last = log["timestamp"] >= START + 29 * DAY
    previous = ingested(tmp_path / "before", log[~last])
    own = previous.events.groupby("user")["item"].first().reindex(range(301), fill_value=0).to_numpy()
    first = log["user_id"].isin(previous.users["user_id"][1:151])
    other = log.assign(item_id=np.where(last & first, "i" + pd.Series(log.index * 7 % 40).astype(str), log["item_id"]))
    known = SimpleNamespace(items=np.eye(41), history_length=1, queries=lambda profile, users, history: np.eye(41)[own[users]])
    monkeypatch.setattr(data_checks_events, "shared_served", lambda *asked: known)
    monkeypatch.setattr(data_checks_events, "MOST_EVENTS", 200)
    for name, now, verdict in (("as ever", log, "go"), ("others", other, "stop")):
        data = NewData.of(grow_dataset(ingested(tmp_path / name, now), previous), previous, 28)
        found = surprise_check(data, SECTION, tmp_path)
        assert found.verdict == verdict and not found.skipped, found
        words = found.found.split()
        assert 100 < int(words[2]) <= 200 and 100 < int(words[6]) <= 200, "visits among the events that were asked about"
