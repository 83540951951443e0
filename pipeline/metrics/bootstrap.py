"""Intervals by resampling users: of one mean, and of many ratios of sums at once, whose columns stay paired."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
BLOCK_ENTRIES = 2_000_000
"""Weights held at a time: resamples of a block × users."""


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over users: resample users with replacement, take the quantiles.

    Efron (1979), https://doi.org/10.1214/aos/1176344552. NaN values (undefined users) are left out first.

    Example:
        >>> low, high = bootstrap_interval([0.0, 1.0] * 200, np.random.default_rng(7))
        >>> 0.44 < low < 0.5 < high < 0.56
        True
    """
    _check_level(level)
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if defined.size == 0:
        return float("nan"), float("nan")
    # One resample at a time: U indices of memory instead of U × resamples.
    means = [defined[rng.integers(defined.size, size=defined.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_means(
    values: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals of the means of many columns over the same resamples of users, so that columns may be compared.

    Args:
        values: float [U, V]; NaN where a user has no value in a column.

    Returns:
        low [V], high [V]; NaN for a column without any value.

    Example: a column that is 0.1 higher for every user has bounds that are 0.1 higher.
        >>> base = np.random.default_rng(1).random(50)
        >>> low, high = bootstrap_means(np.stack([base, base + 0.1], axis=1), np.random.default_rng(7), resamples=100)
        >>> np.round(low[1] - low[0], 9).item(), np.round(high[1] - high[0], 9).item()
        (0.1, 0.1)
    """
    table = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(table)
    return bootstrap_ratios(np.where(defined, table, 0.0), defined, rng, level=level, resamples=resamples)


def bootstrap_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile intervals of Σ_u n_uv / Σ_u d_uv for every column v, over the same resamples of users.

    Means over users, over a group of them and over their events are all such ratios; what belongs to one user is
    resampled together. A resample in which a column's denominator is 0 says nothing and is left out.

    Args:
        numerators, denominators: [U, V], sums of each user.
        resamples: how many; U weights of memory each, a block at a time.

    Returns:
        low [V], high [V].

    Raises:
        ValueError: shapes disagree, or level is not within (0, 1).
    """
    _check_level(level)
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.ndim != 2 or above.shape != below.shape:
        raise ValueError(
            f"numerators, denominators: must be [U, V] of one shape, received {above.shape} and {below.shape}"
        )
    users, columns = above.shape
    ratios = np.full((resamples, columns), np.nan)
    block = max(1, BLOCK_ENTRIES // max(users, 1))
    for start in range(0, resamples if users else 0, block):
        draws = [rng.integers(users, size=users) for _ in range(start, min(start + block, resamples))]
        weights = np.stack([np.bincount(drawn, minlength=users) for drawn in draws]).astype(np.float64)
        total = weights @ below
        np.divide(weights @ above, total, out=ratios[start : start + len(draws)], where=total != 0)
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    known = ~np.isnan(ratios).all(axis=0)
    low[known], high[known] = np.nanquantile(ratios[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: must lie in (0, 1), received {level}; 0.95 is usual")
