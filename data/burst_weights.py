"""Robust pooling of counts over time: what an item earns in one week counts no more than its other weeks bear out."""

from __future__ import annotations

import numpy as np

WEEK = 7 * 86_400
TRIMMED = 0.2
"""Share of an item's weeks left out at either end of their mean."""
USUAL = 0.99
"""Quantile of all items' weekly events below which nothing is a burst: new releases have good weeks too."""


def burst_weights(items: np.ndarray, timestamps: np.ndarray, bound: float) -> np.ndarray:
    """A weight of every event, below 1 where an item's week is out of all proportion.

    Formula: with c_iw the events of item i in week w, t_i their trimmed mean over the item's weeks (from its first to the
    end of the log) and u the 0.99 quantile of all c_iw above 0, `weight = min(1, max(bound t_i, u) / c_iw)`. A sum of
    weights is a winsorised count: one week cannot make an item, however many users join in, while steady success is
    untouched.

    Args:
        items: int [E]. timestamps: int [E] seconds. bound: how many times its usual week an item may earn; above 0.

    Returns: float64 [E] in (0, 1].

    Raises:
        ValueError: a bound that is not positive.

    Example: one event a week for nine weeks, then twenty in one.
        >>> weeks = np.array([*range(9), *[9] * 20]) * 604_800
        >>> weights = burst_weights(np.ones(29, int), weeks, bound=2.0)
        >>> weights[:9].tolist() == [1.0] * 9, bool(weights[9:].sum() < 20)
        (True, True)
    """
    if not bound > 0:
        raise ValueError(f"bound: must be above 0, received {bound}; 3 is usual")
    items, timestamps = np.asarray(items, np.int64), np.asarray(timestamps, np.int64)
    if not len(items):
        return np.zeros(0)
    import scipy.stats  # half a second, and only here

    week = (timestamps - timestamps.min()) // WEEK
    weeks = int(week.max()) + 1
    cells, place = np.unique(items * weeks + week, return_inverse=True)
    found = np.bincount(place).astype(np.float64)
    usual = np.quantile(found, USUAL)
    of_item, of_week = np.divmod(cells, weeks)
    limits = np.full(len(cells), usual)
    starts = np.searchsorted(of_item, np.unique(of_item[found > usual]))
    for start in starts:
        stop = np.searchsorted(of_item, of_item[start], side="right")
        life = np.zeros(weeks - of_week[start])
        life[of_week[start:stop] - of_week[start]] = found[start:stop]
        limits[start:stop] = max(usual, bound * scipy.stats.trim_mean(life, TRIMMED))
    return np.minimum(1.0, limits / found)[place]
