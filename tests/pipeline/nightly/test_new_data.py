"""What came since the last release: on logs that had been silent for weeks, and what its models have no place for."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data.features import FeatureWriter
from data.schema import Schema
from pipeline.nightly.data_checks_events import new_columns, volume_check
from pipeline.nightly.data_checks_media import media_checks
from pipeline.nightly.new_data import NewData
from pipeline.nightly.wanted import Wanted
from pipeline.settings.data_checks import ChecksSection

DAY, START = 86_400, 1_700_000_000 // 86_400 * 86_400


def log_of(days, seed=0):
    """Of every day fifty events before noon, and a hundred and fifty after."""
    rng = np.random.default_rng(seed)
    hours = [np.r_[rng.uniform(0, 12, 50), rng.uniform(12, 24, 150)] * 3600 + day * DAY for day in days]
    return START + np.sort(np.concatenate(hours)).astype(np.int64)


def since(times, until):
    """What came of a log after a moment, without anything else that a dataset has."""
    parts = [SimpleNamespace(events=pd.DataFrame({"timestamp": part}), items=[""], schema=SimpleNamespace(item_rows=1))
             for part in (times, times[times < until])]  # fmt: skip
    return NewData.of(*parts, reference_days=28)


@pytest.mark.parametrize("night", range(46, 52))
def test_the_nights_after_weeks_of_silence_are_measured_by_days_that_had_events(night):
    """The first tells of the silence; those that follow are nights as any other, though most days before had none."""
    times = log_of([*range(30), *range(46, night + 1)])
    check = volume_check(since(times, START + night * DAY), ChecksSection())
    assert check.verdict == ("warn" if night == 46 else "go"), check
    few = times[(times < START + night * DAY) | (np.arange(len(times)) % 5 == 0)]
    assert volume_check(since(few, START + night * DAY), ChecksSection()).verdict == "stop", "a fifth of a day"


def test_half_a_day_after_weeks_of_silence_is_compared_with_the_same_hours():
    times = log_of([*range(2), *range(24, 29)])
    evening = since(times, START + 28 * DAY + 12 * 3600)
    assert evening.new.sum() == 150 and ((times[evening.reference] - START) % DAY > 11.5 * 3600).all()


def test_columns_that_the_models_have_no_place_for_stop_a_job_that_goes_on():
    one = SimpleNamespace(schema=Schema(2, 2, {"age": 3}, {"domain": 2}, context={"device": 3}))
    two = SimpleNamespace(schema=Schema(2, 2, {"age": 3, "sex": 3}, {"domain": 2, "category": 9}, context={"place": 2}))
    assert new_columns(one, one, Wanted()) == new_columns(two, one, Wanted(full=True)) == []
    (check,) = new_columns(two, one, Wanted())
    assert check.verdict == "stop" and "job --full" in check.found
    told = "profile sex (data.columns leaves it out), attributes category, context place (data.context leaves it out)"
    assert told in check.found


def test_a_first_picture_stops_a_job_that_goes_on(tmp_path):
    """A shop without pictures gets one: the towers have no place for it."""
    rows, stores = 30, []
    for number in range(2):
        (folder := tmp_path / str(number) / "encode").mkdir(parents=True)
        writer = FeatureWriter(folder, rows)
        if number:
            writer.add("image", 6)
            writer.put("image", np.array([7]), np.ones((1, 6), "float32"))
        stores.append(writer.close(info={"modalities": {"image": {"encoder": "pack:a"}}} if number else {}))
    items = pd.DataFrame({"created_at": np.zeros(rows, np.int64)})
    data = SimpleNamespace(schema=SimpleNamespace(item_rows=rows), items=items)
    new = NewData(data, data, np.ones(1), np.ones(1), np.zeros(0, int))
    found = [media_checks(new, ChecksSection(), stores[1], tmp_path / "0", Wanted(full=full)) for full in (False, True)]
    assert found[0][1:] == found[1] and (found[0][0].name, found[0][0].verdict) == ("new modalities", "stop")
    assert "image (encoders.image leaves it out)" in found[0][0].found
