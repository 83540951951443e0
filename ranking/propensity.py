"""Inverse propensities as sample weights: what was rarely shown speaks for all that could have been shown in its place."""

from __future__ import annotations

import numpy as np


def propensity_weights(propensity: np.ndarray, cap: float) -> np.ndarray:
    """Weight of every impression, of mean 1 over those whose propensity is known; 1 for the others.

        w_i = min(1 / p_i, cap) / mean_j min(1 / p_j, cap)

    Weighted means of labels are then those of everything that could have been shown, as far as the cap allows, which
    trades a bias for variance. Dividing by the mean keeps impressions as heavy as the negatives beside them.

    Paper: Joachims et al., "Unbiased Learning-to-Rank with Biased Feedback", WSDM 2017; caps: Ionides, "Truncated
    Importance Sampling", 2008.

    Args:
        propensity: [E], probability of having been shown; NaN = unknown. cap: largest weight before division; 0 = none
            of this, every weight is 1.

    Example:
        >>> propensity_weights(np.array([0.5, 0.25, 0.01, np.nan]), cap=4.0).tolist()
        [0.6000000238418579, 1.2000000476837158, 1.2000000476837158, 1.0]
    """
    weights, known = np.ones(len(propensity), np.float32), np.isfinite(propensity)
    if cap > 0 and known.any():
        inverse = np.minimum(1.0 / propensity[known].astype(np.float64), cap)
        weights[known] = inverse / inverse.mean()
    return weights
