"""Labels that an item tower can be asked for beside the main task: categories, and how users received an item."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd

from data.schema import EVENT_CODES, NEGATIVE_EVENTS, TRAIN

LARGEST_VOCABULARY, FEWEST_ITEMS, CODES = 256, 2, 8
PRIOR_EVENTS = 5.0
"""Events' worth of trust in the mean of all items: one rating says little of an item."""


@dataclasses.dataclass(frozen=True)
class ItemLabels:
    """What is known of the items of a catalogue.

    Attributes:
        categories: [N + 1, K] int32 codes, padded with 0. names: the category behind each code, "" first.
        sentiment: [N + 1] float32, in deviations from the catalogue's mean. known: [N + 1] bool.
    """

    categories: np.ndarray
    names: list[str]
    sentiment: np.ndarray
    known: np.ndarray


def item_labels(items: pd.DataFrame, events: pd.DataFrame) -> ItemLabels:
    """Labels of a dataset's items (see `data.dataset.Dataset`) from their own columns and the train split's events."""
    categories, names = category_codes(items["categories"].to_numpy(dtype=object))
    sentiment, known = item_sentiment(events, len(items))
    return ItemLabels(categories, names, sentiment, known)


def category_codes(texts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Codes of categories joined by `|`, the most frequent first; those of a single item are left out.

    Example:
        >>> codes, names = category_codes(np.array(["", "jazz|live", "jazz", "live|jazz|rare"], object))
        >>> codes[:, :3].tolist(), names
        ([[0, 0, 0], [1, 2, 0], [1, 0, 0], [2, 1, 0]], ['', 'jazz', 'live'])
    """
    lists = [list(dict.fromkeys(part.strip() for part in text.split("|") if part.strip())) for text in texts]
    counts = Counter(part for parts in lists for part in parts)
    common = sorted((name for name, count in counts.items() if count >= FEWEST_ITEMS), key=lambda n: (-counts[n], n))
    names = ["", *common[:LARGEST_VOCABULARY]]
    places = {name: place for place, name in enumerate(names)}
    codes = np.zeros((len(texts), CODES), np.int32)
    for row, parts in enumerate(lists):
        found = [places[part] for part in parts if part in places][:CODES]
        codes[row, : len(found)] = found
    return codes, names


def item_sentiment(events: pd.DataFrame, item_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """How an item was received in training: the mean value of its events or, without values, its share of likes.

    Formula: `(sum_e v_e + p m) / (n + p)`, m the mean of all events and p = `PRIOR_EVENTS`, then centred and divided by
    the deviation over items. Values are ratings or what else the log measures; without any, v is 0 for skips and
    dislikes and 1 for other kinds, if the log has both.

    Args:
        events: columns of `data.dataset.EVENT_COLUMNS`; the train split alone is read.

    Returns: sentiment [N + 1] float32 and known [N + 1] bool; all unknown where a log tells neither.
    """
    train = events[events["split"].to_numpy() == TRAIN]
    values = train["value"].to_numpy(np.float64)
    if np.isfinite(values).any():
        chosen = np.isfinite(values)
    else:
        values = (~train["event"].isin([EVENT_CODES[kind] for kind in NEGATIVE_EVENTS])).to_numpy(np.float64)
        chosen = np.ones(len(train), bool)
    rows, values = train["item"].to_numpy()[chosen], values[chosen]
    counts = np.bincount(rows, minlength=item_rows)
    known = counts > 0
    if not len(values) or values.std() == 0:
        return np.zeros(item_rows, np.float32), np.zeros(item_rows, bool)
    sums = np.bincount(rows, values, minlength=item_rows)
    mean = (sums + PRIOR_EVENTS * values.mean()) / (counts + PRIOR_EVENTS)
    deviation = max(mean[known].std(), 1e-12)
    return np.where(known, (mean - mean[known].mean()) / deviation, 0.0).astype(np.float32), known
