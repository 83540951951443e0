"""Is one model better than another, or luckier with these users? Paired tests over users, and seeds beside them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.bootstrap import bootstrap_interval


class Comparison(NamedTuple):
    """a − b over the users both are defined for.

    Attributes:
        difference: mean of a − b. low, high: its bootstrap interval over users. p_value: two-sided, by randomisation.
        users: how many. wins, losses: users with a > b and with a < b.
    """

    difference: float
    low: float
    high: float
    p_value: float
    users: int
    wins: int
    losses: int


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> Comparison:
    """Compare two models' per-user values of one metric, user by user.

    Pairing removes what users differ in by themselves: easy and hard users come with both models. The interval is that
    of `bootstrap_interval` on the differences; the p-value that of `randomisation_p_value`. Smucker, Allan & Carterette
    (2007), https://doi.org/10.1145/1321440.1321528.

    Args:
        first, second: float [U], the same users in the same order; NaN where a user has no defined value.
        resamples: of the interval, and ten times as many of the p-value.

    Raises:
        ValueError: other shapes, or users that are defined for one model alone.

    Example:
        >>> easy = np.linspace(0, 1, 50)
        >>> better = compare_paired(easy + 0.01, easy, np.random.default_rng(7))
        >>> round(better.difference, 3), better.p_value < 0.001, better.wins
        (0.01, True, 50)
    """
    difference = paired_differences(first, second)
    low, high = bootstrap_interval(difference, rng, level=level, resamples=resamples)
    return Comparison(
        float(difference.mean()) if difference.size else float("nan"),
        low,
        high,
        randomisation_p_value(difference, rng, resamples=10 * resamples),
        difference.size,
        int((difference > 0).sum()),
        int((difference < 0).sum()),
    )


def randomisation_p_value(difference: ArrayLike, rng: np.random.Generator, *, resamples: int = 10_000) -> float:
    """Two-sided p-value of a mean difference of 0: how often do random signs make a mean as far from 0?

    Under the hypothesis that the two models are exchangeable for every user, each difference had either sign by chance.
    p = (1 + |{r: |mean_r| >= |mean|}|) / (1 + resamples); never 0, as the sample itself is one of the possible ones.
    Fisher's paired randomisation, in the form of Noreen (1989).

    Example: three users cannot show more than 2 · (1/2)³ = 1/4.
        >>> 0.24 < randomisation_p_value([1.0, 1.0, 1.0], np.random.default_rng(7)) < 0.26
        True
    """
    values = np.asarray(difference, dtype=np.float64)
    values = values[values != 0]  # whichever sign a zero has, the sum is the same
    if resamples < 1:
        raise ValueError(f"resamples: must be >= 1, received {resamples}; 10000 resolve p-values of 0.001")
    if not values.size:
        return 1.0
    observed, extreme, done = abs(values.sum()), 0, 0
    while done < resamples:
        draws = min(resamples - done, max(1, 4_000_000 // values.size))
        signs = rng.integers(0, 2, size=(draws, values.size), dtype=np.int8) * 2 - 1
        # Sums that are equal but for rounding count as equal.
        extreme += int((np.abs(signs @ values) >= observed * (1 - 1e-9)).sum())
        done += draws
    return (1 + extreme) / (1 + resamples)


def holm_adjusted(p_values: ArrayLike) -> list[float]:
    """P-values that may be read together: the chance of calling any equal pair different stays below the level.

    The i-th smallest of m times (m − i + 1), never falling, at most 1. Holm (1979), https://www.jstor.org/stable/4615733.

    Example:
        >>> holm_adjusted([0.04, 0.01, 0.5])
        [0.08, 0.03, 0.5]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    grown = np.minimum(np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)), 1.0)
    adjusted = np.empty(values.size)
    adjusted[order] = grown
    return adjusted.tolist()


def paired_differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """first − second over the users that have a value, after checking that they are the same users.

    >>> paired_differences([0.5, float("nan"), 1.0], [0.25, float("nan"), 1.0]).tolist()
    [0.25, 0.0]
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"first, second: must be flat and of one length, received {one.shape} and {other.shape}")
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        raise ValueError(
            f"first, second: must be defined for the same users, received {np.isnan(one).sum()} and "
            f"{np.isnan(other).sum()} undefined ones at different places; judge both on the same requests"
        )
    return (one - other)[~np.isnan(one)]
