"""Labels of items: categories by frequency, and how items were received, against loops."""

import numpy as np
import pandas as pd

from data.item_labels import PRIOR_EVENTS, category_codes, item_labels, item_sentiment
from data.schema import EVENT_CODES, TEST, TRAIN


def log(items, kinds, values=None, splits=None):
    count = len(items)
    return pd.DataFrame(
        {
            "item": np.array(items, np.int32),
            "event": np.array([EVENT_CODES[kind] for kind in kinds], np.int8),
            "value": np.full(count, np.nan, np.float32) if values is None else np.array(values, np.float32),
            "split": np.array([TRAIN] * count if splits is None else splits, np.int8),
        }
    )


def test_categories_are_coded_by_frequency_once_each_and_bounded():
    texts = np.array(["", "b|a|a", "a", "b", "a|c", *(f"n{k // 2}" for k in range(600))], object)
    codes, names = category_codes(texts)
    assert names[:3] == ["", "a", "b"] and "c" not in names and len(names) == 257
    assert codes[0].tolist() == [0] * 8 and codes[1].tolist() == [2, 1] + [0] * 6
    assert codes[4].tolist() == [1] + [0] * 7 and codes.max() == 256
    wide, _ = category_codes(np.array(["|".join(f"c{k}" for k in range(20))] * 2, object))
    assert (wide > 0).sum(axis=1).tolist() == [8, 8]


def test_sentiment_is_the_shrunken_mean_of_values_in_training():
    items, values = [1, 1, 2, 3, 3, 3, 4], [5, 4, 1, np.nan, 2, 3, 5]
    splits = [TRAIN, TRAIN, TRAIN, TRAIN, TRAIN, TRAIN, TEST]
    sentiment, known = item_sentiment(log(items, ["rating"] * 7, values, splits), 6)
    assert known.tolist() == [False, True, True, True, False, False]
    mean = np.mean([5, 4, 1, 2, 3])
    shrunken = [
        (sum(own) + PRIOR_EVENTS * mean) / (len(own) + PRIOR_EVENTS) for own in ([5, 4], [1], [2, 3])
    ]
    expected = (np.array(shrunken) - np.mean(shrunken)) / np.std(shrunken)
    np.testing.assert_allclose(sentiment[1:4], expected, rtol=1e-5)
    assert sentiment[[0, 4, 5]].tolist() == [0, 0, 0]


def test_without_values_likes_against_skips_tell_and_one_kind_tells_nothing():
    sentiment, known = item_sentiment(log([1, 1, 1, 2, 2], ["view", "like", "skip", "skip", "dislike"]), 3)
    assert known.tolist() == [False, True, True] and sentiment[1] > 0 > sentiment[2]
    for events in (log([1, 2], ["like", "view"]), log([], [])):
        sentiment, known = item_sentiment(events, 3)
        assert not known.any() and not sentiment.any()


def test_labels_of_a_catalogue():
    items = pd.DataFrame({"categories": np.array(["", "x|y", "x", "y"], object)})
    labels = item_labels(items, log([1, 2], ["like", "skip"]))
    assert labels.categories.shape == (4, 8) and labels.names == ["", "x", "y"]
    assert labels.sentiment[1] > labels.sentiment[2] and labels.known.tolist() == [False, True, True, False]
