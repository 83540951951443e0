"""What events tell the heads, against a loop over them."""

import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.schema import EVENT_CODES, TEST, TRAIN, Schema
from pipeline.ranker.event_labels import event_labels, scaled_values
from ranking.config import HEADS


def dataset_of(kinds, values, split, positive):
    events = pd.DataFrame({"event": [EVENT_CODES[kind] for kind in kinds], "value": values, "split": split})
    events["positive"] = positive
    return Dataset(Schema(2, 2), pd.DataFrame(), pd.DataFrame(), events, np.zeros(2), {}, {}, {})


def test_labels_equal_the_loop():
    rng = np.random.default_rng(0)
    kinds = rng.choice(list(EVENT_CODES), 400)
    values = np.where(rng.random(400) < 0.3, np.nan, rng.normal(3, 2, 400)).astype(np.float32)
    split = rng.choice([TRAIN, TEST], 400)
    positive = ~np.isin(kinds, ["skip", "dislike"]) & ~(values < 1)
    labels = event_labels(dataset_of(kinds, values, split, positive))
    assert tuple(labels) == HEADS
    trained = values[(split == TRAIN) & np.isfinite(values)]
    low, high = np.quantile(trained, 0.05), np.quantile(trained, 0.95)
    for event in range(400):
        kind, good = kinds[event], positive[event]
        assert labels["click"][event] == good
        assert labels["like"][event] == (good and kind == "like")
        assert labels["purchase"][event] == (good and kind == "purchase")
        assert labels["skip"][event] == (kind in ("skip", "dislike"))
        expected = np.nan if np.isnan(values[event]) else min(max((values[event] - low) / (high - low), 0), 1)
        assert labels["value"][event] == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("values", [[np.nan, np.nan], [3.0, 3.0], [np.nan, 5.0]])
def test_values_without_a_spread_say_nothing(values):
    assert np.isnan(scaled_values(np.array(values, np.float32), np.ones(2, bool))).all()


def test_later_values_do_not_move_the_scale():
    values = np.arange(100, dtype=np.float32)
    train = np.arange(100) < 50
    moved = np.where(train, values, 1e6).astype(np.float32)
    np.testing.assert_array_equal(scaled_values(values, train)[train], scaled_values(moved, train)[train])
