"""What every event of a log tells the ranker's heads: clicks, likes, purchases, skips and scaled values."""

from __future__ import annotations

import numpy as np

from data.dataset import Dataset
from data.schema import EVENT_CODES, NEGATIVE_EVENTS, PURCHASE_EVENTS, TRAIN

LOW, HIGH = 0.05, 0.95
"""Quantiles of the training events' values that become 0 and 1: one listener who fell asleep is no measure of all."""


def event_labels(dataset: Dataset) -> dict[str, np.ndarray]:
    """Labels of every event, float32 [E] each, NaN where an event says nothing.

    `click` any positive event; `like` a positive event of that kind; `purchase` a positive one of `PURCHASE_EVENTS`;
    `skip` one of `NEGATIVE_EVENTS`; `value` the event's value (rating, seconds watched) in [0, 1], where it has one:

        value = clip((v - q_05) / (q_95 - q_05), 0, 1),  q over the values of the train split
    """
    events = dataset.events
    positive, kind = dataset.positive, events["event"].to_numpy()
    among = lambda kinds: np.isin(kind, [EVENT_CODES[name] for name in kinds])  # noqa: E731
    labels = {
        "click": positive,
        "like": positive & among({"like"}),
        "purchase": positive & among(PURCHASE_EVENTS),
        "skip": among(NEGATIVE_EVENTS),
        "value": scaled_values(events["value"].to_numpy(np.float32), events["split"].to_numpy() == TRAIN),
    }
    return {head: column.astype(np.float32) for head, column in labels.items()}


def scaled_values(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Values [E] between two quantiles of the training ones as numbers in [0, 1]; NaN stays NaN.

    Without two different values to measure with, nothing is known of any event.

    Example:
        >>> scaled_values(np.array([0.0, 10.0, np.nan, 99.0]), np.array([True, True, True, False])).tolist()
        [0.0, 1.0, nan, 1.0]
    """
    measured = values[train & np.isfinite(values)]
    low, high = np.quantile(measured, [LOW, HIGH]) if len(measured) else (0.0, 0.0)
    if not high > low:
        return np.full(len(values), np.nan, np.float32)
    return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
