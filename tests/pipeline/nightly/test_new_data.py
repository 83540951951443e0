"""What came since the last release, on logs that had been silent for weeks."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.nightly.data_checks_events import volume_check
from pipeline.nightly.new_data import NewData
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
