"""A calibration for every domain that has labels enough for one of its own; the head's own for all others."""

from __future__ import annotations

import numpy as np
from keras import ops

from ranking.calibration import best_kind, fit_calibration
from ranking.config import RankerSpec
from ranking.tables import SideTables

MINIMUM_DOMAIN_LABELS = 200
"""A domain has its own calibration from this many labels of either kind (chosen and not chosen) on. A line through fewer
is off by more than domains usually differ: the standard error of its intercept is about 1 / sqrt(200) = .07."""


def fit_domain_calibration(
    kind: str, logits, labels, domains, users=None, minimum_labels: int = MINIMUM_DOMAIN_LABELS
) -> dict:
    """A calibration by domain, or a plain one where at most one domain stands out by having labels enough.

        p = f_d(s) for a domain d with at least `minimum_labels` of either kind, f(s), fitted to all of them, else

    Args:
        kind: as in `ranking.calibration.fit_calibration`; one for all domains.
        logits, labels: [E]. domains: int codes [E], 0 = unknown, which is never a domain of its own. users: [E].

    Example:
        >>> logits, labels = np.zeros(3000), np.tile([1.0, 0.0, 0.0], 1000)
        >>> labels[1500:] = 1 - labels[1500:]
        >>> fitted = fit_domain_calibration("platt", logits, labels, np.repeat([1, 2], 1500))
        >>> [round(float(1 / (1 + np.exp(-part["intercept"]))), 2) for part in fitted["domains"].values()]
        [0.33, 0.67]
    """
    logits, labels = np.asarray(logits, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    codes = np.asarray(domains, np.int64).ravel()
    if codes.shape != logits.shape or (len(codes) and codes.min() < 0):
        raise ValueError(
            f"domains: must be one code of at least 0 a logit, received shape {codes.shape} for {logits.shape}"
        )
    if kind == "best" and users is not None and len(logits):
        kind = best_kind(logits, labels, np.asarray(users))
    otherwise = fit_calibration(kind, logits, labels)
    chosen, other = np.bincount(codes, weights=labels), np.bincount(codes, weights=1 - labels)
    own = [int(code) for code in np.flatnonzero(np.minimum(chosen, other) >= minimum_labels) if code > 0]
    if not own or (len(own) == 1 and (codes == own[0]).all()):
        return otherwise
    parts = {str(code): fit_calibration(kind, logits[codes == code], labels[codes == code]) for code in own}
    return {"kind": "by_domain", "otherwise": otherwise, "domains": parts}


def domain_of(side: SideTables, spec: RankerSpec, rows):
    """Domain codes of item rows of any shape; 0 everywhere if the catalogue has no domains."""
    names = list(spec.schema.attributes)
    return side.take("attributes", rows)[..., names.index("domain")] if "domain" in names else ops.zeros_like(rows)
