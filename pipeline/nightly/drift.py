"""How far two samples lie apart: the population stability index of a column, the maximum mean discrepancy of vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def population_stability(expected: ArrayLike, actual: ArrayLike) -> float:
    """Population stability index of counts by bin: `sum_b (a_b - e_b) ln(a_b / e_b)` with a and e the shares.

    Shares are `(n_b + 1/2) / (n + B/2)` over the B bins that either uses: an empty bin of a small sample is no
    infinity. Symmetric, 0 where shares are equal; it is the sum of both Kullback-Leibler divergences. Siddiqi (2006),
    *Credit Risk Scorecards*.

    Shapes: [bins], [bins].

    Example:
        >>> round(population_stability([500, 500], [600, 400]), 2), population_stability([3, 0, 3], [3, 0, 3])
        (0.04, 0.0)
    """
    one, other = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    used = (one + other) > 0
    shares = [(counts[used] + 0.5) / (counts.sum() + 0.5 * used.sum()) for counts in (one, other)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def chance_stability(expected: ArrayLike, actual: ArrayLike, deviations: float = 0.0) -> float:
    """What the index is where both samples come from one source, on average and so many standard deviations above.

        (B - 1 + deviations sqrt(2 (B - 1))) (1 / n + 1 / m)

    To second order the index is a chi-squared statistic of B - 1 degrees of freedom times `1 / n + 1 / m` (Yurdakul and
    Naranjo, 2020), B the bins in use; a day of few events would look like a shift without it.

    Example:
        >>> round(chance_stability([50, 50, 0], [10, 10, 0]), 3), round(chance_stability([50, 50, 0], [10, 10, 0], 2), 3)
        (0.06, 0.23)
    """
    one, other = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    freedom = max(int(((one + other) > 0).sum()) - 1, 0)
    scale = 1.0 / max(one.sum(), 1.0) + 1.0 / max(other.sum(), 1.0)
    return float((freedom + deviations * np.sqrt(2 * freedom)) * scale)


def counts_of(expected: ArrayLike, actual: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two samples of numbers in the deciles of the first; NaN has a bin of its own, the last.

    Example:
        >>> one, other = counts_of(np.arange(100.0), [0.0, 99.0, np.nan])
        >>> one.tolist(), other.tolist()
        ([10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    """
    one, other = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    known = one[~np.isnan(one)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, 11)[1:-1])) if known.size else np.zeros(0)
    found = []
    for values in (one, other):
        there = ~np.isnan(values)
        counts = np.bincount(np.searchsorted(edges, values[there], side="right"), minlength=len(edges) + 1)
        found.append(np.append(counts, (~there).sum()))
    return found[0], found[1]


def mean_discrepancy(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Maximum mean discrepancy (squared, unbiased) of two samples of vectors under a Gaussian kernel, and its standard
    deviation where both come from one source.

        MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    with `k(x, y) = exp(-|x - y|^2 / median)`, the median of the squared distances of all pairs. Gretton et al. (2012), *A
    Kernel Two-Sample Test*, JMLR 13. The deviation under equality is that of a U-statistic with a centred kernel,
    `sqrt(2 Var(k) (1 / (m (m - 1)) + 1 / (n (n - 1)) + 2 / (m n)))`, Var(k) that of the doubly centred kernel.

    Shapes: [m, F], [n, F], m and n at least 2.

    Raises:
        ValueError: fewer vectors, or of two widths.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"first, second: must be [m, F] and [n, F] with at least 2 rows each, received {x.shape} and {y.shape}"
        )
    m, n = len(x), len(y)
    every = np.concatenate([x, y])
    squares = (every**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * every @ every.T, 0.0)
    width = float(np.median(distances[np.triu_indices(m + n, 1)]))
    kernel = np.exp(-distances / max(width, 1e-12))
    within_x = (kernel[:m, :m].sum() - m) / (m * (m - 1))
    within_y = (kernel[m:, m:].sum() - n) / (n * (n - 1))
    squared = within_x + within_y - 2 * kernel[:m, m:].mean()
    centred = kernel - kernel.mean(axis=0)[None] - kernel.mean(axis=1)[:, None] + kernel.mean()
    variance = float((centred[np.triu_indices(m + n, 1)] ** 2).mean())
    deviation = np.sqrt(2 * variance * (1 / (m * (m - 1)) + 1 / (n * (n - 1)) + 2 / (m * n)))
    return float(squared), float(deviation)


def sampled(rows: np.ndarray, number: int, seed: int) -> np.ndarray:
    """At most `number` of the rows by a seeded draw, in their order.

    Example:
        >>> sampled(np.arange(5), 9, 0).tolist(), len(sampled(np.arange(50), 9, 0))
        ([0, 1, 2, 3, 4], 9)
    """
    if len(rows) <= number:
        return rows
    return rows[np.sort(np.random.default_rng([seed, len(rows)]).choice(len(rows), number, replace=False))]
