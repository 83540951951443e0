"""How popular every item was on every day, with older events counting less, and nothing of the day itself or later."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

DAY = 86_400
MOST_MOMENTS = 64
"""A longer time is cut into this many steps of several days, so that the table stays small."""
SMALLEST_SPREAD = 0.1
"""Of log counts: where next to nothing has happened yet, one event is no landslide."""


@dataclasses.dataclass(frozen=True)
class PopularityTable:
    """Popularity of every item as of P moments.

    Attributes:
        values: f32 [P, N + 1, H], one column a half-life: log1p, standardised over the items of each moment, so that a
            busy season is no popularity.
        start, step: UTC seconds: moment p is `start + p step`.
    """

    values: np.ndarray
    start: int = 0
    step: int = DAY

    def newest(self) -> PopularityTable:
        """The last moment alone: what a release takes along."""
        return PopularityTable(self.values[-1:], self.start + (len(self.values) - 1) * self.step, self.step)


def decayed_counts(
    item: np.ndarray, time: np.ndarray, moments: np.ndarray, half_life: float, item_rows: int
) -> np.ndarray:
    """Events of each item before each moment, halved for every half-life since.

        c_p(i) = sum over events of i at t_e < m_p of 2^(-(m_p - t_e) / half-life)

    Args:
        item, time: [E] rows and UTC seconds, any order. moments: [P] UTC seconds, ascending. half_life: days.

    Returns: float64 [P, N + 1].

    Example:
        >>> counts = decayed_counts(np.array([1, 1]), np.array([0, 86_400]), np.array([86_400, 172_800]), 1.0, 2)
        >>> counts[:, 1].tolist()  # the second event is not before the first moment
        [0.5, 0.75]
    """
    scale = half_life * DAY
    # The first moment that an event lies strictly before.
    first = np.searchsorted(moments, time, side="right")
    counts, state = np.zeros((len(moments), item_rows)), np.zeros(item_rows)
    order = np.argsort(first, kind="stable")
    bounds = np.searchsorted(first[order], np.arange(len(moments) + 1))
    for place, moment in enumerate(moments):
        if place:
            state = state * 2.0 ** (-(moment - moments[place - 1]) / scale)
        new = order[bounds[place] : bounds[place + 1]]
        state = state + np.bincount(item[new], 2.0 ** (-(moment - time[new]) / scale), minlength=item_rows)
        counts[place] = state
    return counts


def popularity_table(
    item: np.ndarray, time: np.ndarray, start: int, half_lives: tuple[float, ...], item_rows: int
) -> PopularityTable:
    """Popularity as of every day from `start` to the day after the last event.

    Args:
        item, time: [E] positive events that are known when the ranker is made. start: UTC seconds of the first request it
            learns from; its day's beginning is the first moment. half_lives: days.
    """
    start = start // DAY * DAY
    last = max(int(time.max(initial=start)) + 1, start)
    step = DAY * max(1, math.ceil((last - start) / DAY / (MOST_MOMENTS - 1)))
    moments = start + step * np.arange(math.ceil((last - start) / step) + 1)
    values = np.zeros((len(moments), item_rows, len(half_lives)), np.float32)
    for place, half_life in enumerate(half_lives):
        counts = np.log1p(decayed_counts(item, time, moments, half_life, item_rows))
        known = counts[:, 1:] if item_rows > 1 else np.zeros((len(moments), 1))
        spread = np.maximum(known.std(axis=1, keepdims=True), SMALLEST_SPREAD)
        values[:, :, place] = (counts - known.mean(axis=1, keepdims=True)) / spread
    values[:, 0] = 0
    return PopularityTable(values, int(start), int(step))
