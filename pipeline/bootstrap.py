"""Intervals by resampling users: of one mean, and of many ratios of sums at once, so that columns stay paired."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over users: resample users with replacement, take the quantiles.

    Efron (1979), https://doi.org/10.1214/aos/1176344552. NaN values (undefined users) are left out first.

    Example:
        >>> low, high = bootstrap_interval([0.0, 1.0] * 200, np.random.default_rng(7))
        >>> 0.44 < low < 0.5 < high < 0.56
        True
    """
    if not 0 < level < 1:
        raise ValueError(f"level: must lie in (0, 1), received {level}; 0.95 is usual")
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if defined.size == 0:
        return float("nan"), float("nan")
    # One resample at a time: U indices of memory instead of U × resamples.
    means = [defined[rng.integers(defined.size, size=defined.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
